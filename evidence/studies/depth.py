"""The gradient through n layers, each of which multiplies lengths by a gain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evidence.common import SEEDS, compose, run_steps
from evidence.pages import COLOURS, MARKERS, table
from evidence.studies.slope import log_slope
from trainer.config.model.deep_linear import DeepLinear

GAINS = (0.5, 0.9, 1.0, 1.1, 1.5)
TRAINED = (0.5, 1.0, 1.5)
DEPTHS = tuple(range(2, 31, 4))


@dataclass
class Depth:
    """The results of this study.

    norms: by gain and depth, the norm of the first layer's gradient for each seed. slopes: by gain, for each seed.
    layers: by gain, the norms of the bias gradients (before, after clipping) from the first layer to the last.
    ends: by gain and clip, for each seed the first loss, and the last or the step at which it was not finite.
    """

    norms: dict[float, dict[int, list[float]]]
    slopes: dict[float, list[float]]
    layers: dict[float, list[tuple[float, float]]]
    ends: dict[tuple[float, str], list[tuple[float, float | int]]]


def measure() -> Depth:
    """Makes all measurements, with three seeds, since the matrices are random."""
    norms = first_layer(DEPTHS)
    slopes = {gain: [log_slope(DEPTHS, [norms[gain][depth][index] for depth in DEPTHS]) for index in range(len(SEEDS))]
              for gain in GAINS}  # fmt: skip
    layers = {gain: by_layer(gain) for gain in TRAINED}
    ends = {(gain, clip): [end(gain, clip, seed) for seed in SEEDS] for gain in TRAINED
            for clip in ("none", "norm")}  # fmt: skip
    return Depth(norms, slopes, layers, ends)


def first_layer(depths: Sequence[int]) -> dict[float, dict[int, list[float]]]:
    """Measures the norm of the first layer's gradient at the first step, by gain and depth, for each seed."""
    config = compose("experiment=depth", "clip=none", "steps=1")
    model = config.model
    assert isinstance(model, DeepLinear)

    def norm(gain: float, depth: int, seed: int) -> float:
        (step,) = run_steps(replace(config, model=replace(model, gain=gain, layers=depth), seed=seed))
        return step.report.by_parameter()["layers.0.weight"][0]

    return {gain: {depth: [norm(gain, depth, seed) for seed in SEEDS] for depth in depths} for gain in GAINS}


def by_layer(gain: float) -> list[tuple[float, float]]:
    """Measures the gradient of each layer's output, which is its bias's gradient, before and after clipping."""
    config = compose("experiment=depth", f"model.gain={gain}", "model.bias=true", "steps=1")
    (step,) = run_steps(config)
    norms = step.report.by_parameter()
    assert isinstance(config.model, DeepLinear)
    return [norms[f"layers.{layer}.bias"] for layer in range(config.model.layers)]


def end(gain: float, clip: str, seed: int) -> tuple[float, float | int]:
    """Trains a run; returns its first loss, and its last or the step at which the loss was not finite."""
    config = compose("experiment=depth", f"clip={clip}", f"model.gain={gain}", f"seed={seed}")
    start = math.nan
    for step in run_steps(config):
        loss = step.loss.item()
        start = loss if step.number == 1 else start
        if not math.isfinite(loss):
            return start, step.number
    return start, loss


def page(found: Depth) -> str:
    """Makes the two tables of the page."""
    rows = []
    for gain in GAINS:
        slopes = found.slopes[gain]
        deepest = found.norms[gain][DEPTHS[-1]]
        rows.append([f"{gain:g}", f"{math.log(gain):.4f}", f"{min(slopes):.4f} to {max(slopes):.4f}",
                     f"{min(deepest):.3g} to {max(deepest):.3g}"])  # fmt: skip
    header = ["gain g", "log g", "slope measured, three seeds", f"first layer's norm at n = {DEPTHS[-1]}"]
    ends = [[f"{gain:g}", *("<br>".join(_end(*pair) for pair in found.ends[gain, clip]) for clip in ("none", "norm"))]
            for gain in TRAINED]  # fmt: skip
    losses = ["gain g", "loss, first → last, `clip=none`", "the same, `clip=norm clip.max=1`"]
    return table(header, rows) + "\n\n" + table(losses, ends)


def _end(start: float, last: float | int) -> str:
    return f"{start:.4g} → " + (f"not finite at step {last}" if isinstance(last, int) else f"{last:.4g}")


def draw(found: Depth, pyplot: Any) -> Any:
    """Plots the first layer's gradient over the depth, and the gradient at each of thirty layers."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), dpi=100, layout="constrained")
    for gain, colour, marker in zip(GAINS, COLOURS, MARKERS, strict=True):
        left.plot(DEPTHS, [gain ** (depth - 1) for depth in DEPTHS], color=colour, linewidth=1)
        measured = [found.norms[gain][depth] for depth in DEPTHS]
        for index in range(len(SEEDS)):
            label = f"gain {gain:g}" if index == 0 else None
            left.plot(DEPTHS, [norms[index] for norms in measured], marker, color=colour, markersize=5, label=label)
    left.set(yscale="log", xlabel="layers n", ylabel="2-norm", title="first layer's gradient; lines: g to the n - 1")
    left.legend(fontsize=8)
    for gain in TRAINED:
        number = GAINS.index(gain)
        layers = range(1, len(found.layers[gain]) + 1)
        before, after = zip(*found.layers[gain], strict=True)
        right.plot(layers, before, color=COLOURS[number], linewidth=1, label=f"gain {gain:g}")
        right.plot(layers, after, MARKERS[number], color=COLOURS[number], markersize=4)
    right.set(
        yscale="log", xlabel="layer (30 is next to the loss)", title="gradient at each layer; markers: after clipping"
    )
    right.legend(fontsize=8, loc="upper right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
