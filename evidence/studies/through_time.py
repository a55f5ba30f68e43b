"""The gradient through the time steps of recurrent networks, and a task with long-term dependencies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from evidence.common import SEEDS, compose, in_processes, run_steps
from evidence.pages import COLOURS, MARKERS, table
from evidence.studies.slope import log_slope
from trainer import inspection
from trainer.evaluate import evaluate
from trainer.state import build

GAINS = (0.5, 0.9, 1.0, 1.1, 1.5)
LENGTH = 60  # of the sequences on which the gradient is measured by time step
LENGTHS = (10, 20, 40, 80)
SOLVED = 0.99  # accuracy on held-out sequences from which on the task counts as solved
EVALUATE_EVERY = 100


class Net(NamedTuple):
    """A network. lengths: the lengths of the sequences on which it is trained."""

    name: str
    experiment: str
    lengths: tuple[int, ...]


RELU = Net("ReLU, identity", "through_time", LENGTHS)
ORTHOGONAL = Net("tanh, orthogonal", "through_time_orthogonal", LENGTHS)
DEFAULT = Net("tanh, torch's own", "through_time_default", LENGTHS[:2])
NETS = (RELU, ORTHOGONAL, DEFAULT)
CLIPS = ("none", "norm")


class End(NamedTuple):
    """The end of a run. finite: whether its loss was finite. step: the last one. norm: the largest before clipping."""

    solved: bool
    finite: bool
    step: int
    norm: float


@dataclass
class ThroughTime:
    """The results of this study.

    series: by net and gain, the gradient's norm at each time step. ends: by net, length and clip.
    """

    series: dict[tuple[str, float], list[float]]
    ends: dict[tuple[str, int, str], list[End]]


def measure() -> ThroughTime:
    """Makes all measurements; the runs train in two processes."""
    series = {(net.name, gain): norms_by_step(net, gain) for net in NETS for gain in GAINS}
    keys = [(net, length, clip, seed) for net in NETS for length in net.lengths for clip in CLIPS for seed in SEEDS]
    keys.sort(key=lambda key: -key[1])  # the longest runs first, so that both processes end at about the same time
    found = dict(zip(keys, in_processes(_solve, keys), strict=True))
    ends = {(net.name, length, clip): [found[net, length, clip, seed] for seed in SEEDS]
            for net in NETS for length in net.lengths for clip in CLIPS}  # fmt: skip
    return ThroughTime(series, ends)


def norms_by_step(net: Net, gain: float) -> list[float]:
    """The norm of the last loss's gradient at each time step, at the start of training."""
    state = build(compose(f"experiment={net.experiment}", f"model.gain={gain}", f"data.length={LENGTH}"))
    norms = inspection.through_time(state, next(state.data.batches(0)))
    assert norms is not None
    return norms


def _solve(key: tuple[Net, int, str, int]) -> End:
    net, length, clip, seed = key
    return solve(net, f"data.length={length}", f"clip={clip}", f"seed={seed}")


def solve(net: Net, *overrides: str) -> End:
    """Trains until the task is solved, the loss is not finite, or all steps are done."""
    config = compose(f"experiment={net.experiment}", *overrides)
    largest = 0.0
    for step in run_steps(config):
        largest = max(largest, step.report.before.item())
        if not bool(torch.isfinite(step.loss)):
            return End(False, False, step.number, largest)
        if step.number % EVALUATE_EVERY == 0 and evaluate(step.state)[1]["accuracy"] > SOLVED:
            return End(True, True, step.number, largest)
    return End(False, True, config.steps, largest)


def slope_of(norms: Sequence[float]) -> float:
    """The slope of the norms' logarithm, per step back in time."""
    return log_slope([-float(step) for step in range(len(norms))], norms)


def page(found: ThroughTime) -> str:
    """Makes the two tables of the page."""
    header = ["slope per step back", *(f"gain {gain:g}" for gain in GAINS)]
    slopes = [[net.name, *(f"{slope_of(found.series[net.name, gain]):+.3f}" for gain in GAINS)] for net in NETS]
    law = ["log of the gain", *(f"{math.log(gain):+.3f}" for gain in GAINS)]
    rows = []
    for net in NETS:
        for clip in CLIPS:
            cells = [_share(found.ends[net.name, length, clip]) if length in net.lengths else "not run"
                     for length in LENGTHS]  # fmt: skip
            rows.append([net.name, f"`clip={clip}`", *cells])
    titles = ["network", "", *(f"{length} symbols" for length in LENGTHS)]
    return table(header, [law, *slopes]) + "\n\n" + table(titles, rows)


def _share(ends: Sequence[End]) -> str:
    """Formats the number of solved runs, of runs with a loss that was not finite, and the largest norm."""
    lost = sum(not end.finite for end in ends)
    norm = max(end.norm for end in ends)
    return (
        f"{sum(end.solved for end in ends)} of {len(ends)}"
        + (f", {lost} not finite" if lost else "")
        + f" ({norm:.2g})"
    )


def draw(found: ThroughTime, pyplot: Any) -> Any:
    """Plots the gradient over the time steps, and the share of solved runs over the length."""
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), dpi=100, layout="constrained")
    for panel, net in zip(axes, (RELU, ORTHOGONAL), strict=False):
        for gain, colour in zip(GAINS, COLOURS, strict=True):
            norms = found.series[net.name, gain]
            panel.plot(range(1, LENGTH + 1), norms, color=colour, label=f"gain {gain:g}")
        panel.set(yscale="log", xlabel="time step", ylabel="2-norm of the gradient", title=net.name, ylim=(1e-22, 1e10))
        panel.legend(fontsize=8, loc="lower right")
    last = axes[2]
    for number, net in enumerate(NETS):
        for clip, style in zip(CLIPS, (":", "-"), strict=True):
            shares = [sum(e.solved for e in found.ends[net.name, n, clip]) / len(SEEDS) for n in net.lengths]
            shift = 1.03 ** (number - 1)  # so that equal shares do not overlap
            last.plot([n * shift for n in net.lengths], [share + 0.012 * (number - 1) for share in shares], style,
                      color=COLOURS[(0, 4, 2)[number]], marker=MARKERS[number], markersize=6,
                      markerfacecolor="none" if clip == "none" else None,
                      label=f"{net.name}, clip={clip}")  # fmt: skip
    last.set(xscale="log", xlabel="symbols of a sequence", ylabel="share of three seeds", title="temporal order solved",
             ylim=(-0.05, 1.8))  # fmt: skip
    last.set_yticks([0, 1 / 3, 2 / 3, 1], ["0", "1/3", "2/3", "1"])
    last.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
    last.minorticks_off()
    last.legend(fontsize=8, loc="upper left")
    for panel in axes:
        panel.grid(alpha=0.3)
    return figure
