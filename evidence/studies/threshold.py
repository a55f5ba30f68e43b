"""The default job with thresholds from too small to too large: the share of clipped steps, and the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from evidence.common import SEEDS, compose, in_processes, run_steps
from evidence.pages import COLOURS, MARKERS, table
from trainer.evaluate import evaluate

LIMITS = (0.1, 0.3, 1.0, 3.0, 10.0)
RATES = (3.0, 1.0)


class End(NamedTuple):
    """The end of a run. clipped: the share of clipped steps. loss: on validation data, None if not finite.

    norms: before clipping, of every step.
    """

    clipped: float
    loss: float | None
    norms: list[float]


@dataclass
class Threshold:
    """The results of this study. ends: by learning rate and threshold, one per seed."""

    ends: dict[tuple[float, float], list[End]]


def measure() -> Threshold:
    """Trains every learning rate with every threshold, three seeds each, in two processes."""
    keys = [(rate, limit, seed) for rate in RATES for limit in LIMITS for seed in SEEDS]
    found = dict(zip(keys, in_processes(_train, keys), strict=True))
    return Threshold({(r, limit): [found[r, limit, seed] for seed in SEEDS] for r in RATES for limit in LIMITS})


def _train(key: tuple[float, float, int]) -> End:
    rate, limit, seed = key
    return train(f"optimizer.lr={rate}", f"clip.max={limit}", f"seed={seed}")


def train(*overrides: str) -> End:
    """Trains one run of `experiment=threshold`."""
    norms, clipped = [], 0
    for step in run_steps(compose("experiment=threshold", *overrides)):
        norms.append(step.report.before.item())
        clipped += bool(step.report.fraction > 0)
        if not bool(torch.isfinite(step.loss)):
            return End(clipped / len(norms), None, norms)
    return End(clipped / len(norms), evaluate(step.state)[0], norms)


def page(found: Threshold) -> str:
    """Makes the table of the page."""
    rows = []
    for (rate, limit), ends in found.ends.items():
        norms = torch.tensor([norm for end in ends for norm in end.norms], dtype=torch.float64)
        median, high = norms.quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
        shares = [100 * end.clipped for end in ends]
        losses = ", ".join("not finite" if end.loss is None else f"{end.loss:.2f}" for end in ends)
        rows.append([f"{rate:g}", f"{limit:g}", f"{rate * limit:g}", _range(shares),
                     f"{median:.2g}, {high:.2g}", losses])  # fmt: skip
    header = [
        "lr",
        "max",
        "lr · max",
        "clipped steps",
        "norm before: median, 95 %",
        "validation loss at the end",
    ]
    return table(header, rows)


def _range(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    return f"{low} %" if low == high else f"{low} to {high} %"


def draw(found: Threshold, pyplot: Any) -> Any:
    """Plots the validation loss over the threshold, by learning rate."""
    figure, axes = pyplot.subplots(figsize=(8, 3.4), dpi=100, layout="constrained")
    for rate, colour, marker in zip(RATES, (COLOURS[0], COLOURS[4]), MARKERS, strict=False):
        for index in range(len(SEEDS)):
            losses = [end.loss if end.loss is not None else float("nan")
                      for end in (found.ends[rate, limit][index] for limit in LIMITS)]  # fmt: skip
            axes.plot(LIMITS, losses, color=colour, marker=marker, linewidth=1, markersize=5,
                      label=f"lr {rate:g}, three seeds" if index == 0 else None)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="clip.max", ylabel="validation loss at the end")
    axes.set_yticks([1.5, 2, 3, 5, 10], ["1.5", "2", "3", "5", "10"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure
