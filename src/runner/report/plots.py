"""The report's pictures, in colours that the colour-blind can tell apart (Okabe and Ito), and with markers too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradclip.policies import Policy
from runner.report.aggregate import Row, Table
from runner.tracking.tags import AFTER, BEFORE, LIMIT, LOSS, VALIDATION

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw(table: Table, folder: Path) -> dict[str, Path]:
    """Writes the PNGs that there is something to draw for; their captions by path's order."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for caption, name, picture in (
        ("The objective against the threshold; shaded: where runs diverged", "objective", _objective),
        ("Loss of the best run of each policy: training (thin, smoothed) and validation (thick)", "loss", _losses),
        ("The norm before and after clipping, and the limit, in the best run of each policy", "norms", _norms),
        (
            "Norms before clipping in the best run of each policy, and every threshold tried",
            "distribution",
            _distribution,
        ),
        ("Share of steps in which anything was clipped", "clipped", _clipped),
    ):
        figure = pyplot.figure(figsize=(9, 4.2), dpi=100, layout="constrained")
        if picture(figure, table):
            path = folder / f"report_{name}.png"
            figure.savefig(path)
            drawn[caption] = path
        pyplot.close(figure)
    return drawn


def policies(table: Table) -> list[str]:
    """In the order of their best rows; a colour and a marker each."""
    return list(dict.fromkeys(row.policy for row in table.rows))


def colour(table: Table, policy: str) -> str:
    """The same in all pictures."""
    return COLOURS[policies(table).index(policy) % len(COLOURS)]


def marker(table: Table, policy: str) -> str:
    """Beside the colour, for those who print in black."""
    return MARKERS[policies(table).index(policy) % len(MARKERS)]


def best_rows(table: Table) -> list[Row]:
    """The best row of each policy."""
    return [next(row for row in table.rows if row.policy == policy) for policy in policies(table)]


def line_rows(table: Table, policy: str) -> list[Row]:
    """The rows of a policy's best setting of all other keys, from the smallest threshold to the largest."""
    best = next(row for row in table.rows if row.policy == policy)
    others = [key for key in table.columns if key != "clip.max" and not key.endswith(".name")]
    fixed = [
        key for key in others if sum(row.policy == policy for row in table.rows) > 1 and key.split(".")[0] != "clip"
    ]
    alike = [row for row in table.rows
             if row.policy == policy and all(row.values.get(key) == best.values.get(key) for key in fixed)]  # fmt: skip
    return sorted((row for row in alike if row.threshold is not None), key=lambda row: row.threshold or 0.0)


def _objective(figure: Any, table: Table) -> bool:
    axes = figure.subplots()
    finished = [row for row in table.rows if row.objectives]
    thresholds = sorted({row.threshold for row in table.rows if row.threshold is not None})
    if not thresholds:
        return False
    for policy in policies(table):
        paint, mark, rows = colour(table, policy), marker(table, policy), line_rows(table, policy)
        shown = [row for row in rows if row.objectives]
        axes.errorbar(
            [row.threshold for row in shown], [row.mean for row in shown], [row.deviation or 0.0 for row in shown],
            color=paint, marker=mark, capsize=3, linewidth=1.5, label=f"clip={policy}" if rows else None,
        )  # fmt: skip
        lonely = [row for row in table.rows if row.policy == policy and row.threshold is None]
        for row in lonely[:1]:
            if row.objectives:
                axes.axhline(row.mean, color=paint, linestyle="--", label=f"clip={policy}")
            else:
                axes.plot([], [], color=paint, marker="x", linestyle="", label=f"clip={policy}: {_ended(row)}")
        for row in rows:
            if row.counts["diverged"]:
                low, high = _around(row.threshold or 1.0, thresholds)
                axes.axvspan(low, high, color=paint, alpha=0.12, linewidth=0)
                axes.plot([row.threshold], [1.0], marker="x", color=paint, markersize=9, clip_on=False,
                          transform=axes.get_xaxis_transform(), linestyle="")  # fmt: skip
    axes.set(xscale="log", xlabel="threshold (clip.max; the median limit of adaptive policies)",
             ylabel="objective: best loss/val, mean ± sd over seeds")  # fmt: skip
    if finished and max(row.mean for row in finished) > 5 * min(row.mean for row in finished) > 0:
        axes.set_yscale("log")
    diverged = any(row.counts["diverged"] and row.threshold is not None for row in table.rows)
    title = "shaded, and x at the top: at least one seed diverged" if diverged else ""
    _finish(axes, title)
    return True


def _ended(row: Row) -> str:
    return ", ".join(row.counts)


def _around(threshold: float, thresholds: Sequence[float]) -> tuple[float, float]:
    """Half-way, on a log axis, to the neighbours."""
    place = list(thresholds).index(threshold)
    ratio = 2.0
    below = thresholds[place - 1] if place else threshold / ratio
    above = thresholds[place + 1] if place + 1 < len(thresholds) else threshold * ratio
    return float(np.sqrt(below * threshold)), float(np.sqrt(above * threshold))


def _losses(figure: Any, table: Table) -> bool:
    axes, found = figure.subplots(), False
    low, high = np.inf, -np.inf
    for row in best_rows(table):
        series, paint = row.best_trial.series, colour(table, row.policy)
        if LOSS in series:
            found = True
            smooth = _smoothed(series[LOSS].values)
            axes.plot(series[LOSS].steps, smooth, color=paint, linewidth=0.8, alpha=0.8)
            finite = smooth[np.isfinite(smooth)]
            if row.objectives and finite.size:
                low, high = min(low, finite.min()), max(high, finite.max())
        if VALIDATION in series:
            steps, values = series[VALIDATION]
            axes.plot(steps, values, color=paint, linewidth=2.2, marker=marker(table, row.policy), markersize=4)
            if row.objectives and np.isfinite(values).any():
                low, high = min(low, np.nanmin(values)), max(high, values[np.isfinite(values)].max())
        axes.plot([], [], color=paint, marker=marker(table, row.policy), label=table.name(row) or "run")
    if np.isfinite(low) and high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))  # a diverged run leaves through the top
    axes.set(xlabel="step", ylabel="loss")
    _finish(axes)
    return found


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over windows of a hundredth of the run."""
    width = max(1, len(values) // 100)
    if width == 1:
        return values
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts), np.float64)


def _norms(figure: Any, table: Table) -> bool:
    rows = [row for row in best_rows(table) if BEFORE in row.best_trial.series][:6]
    if not rows:
        return False
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    figure.set_size_inches(9, 1.2 + 2.6 * down)
    for axes, row in zip(figure.subplots(down, across, squeeze=False, sharey=True).flat, rows, strict=False):
        series = row.best_trial.series
        axes.plot(*_thinned(series[BEFORE]), color=COLOURS[0], linewidth=0.8, label="before")
        axes.plot(*_thinned(series[AFTER]), color=COLOURS[1], linewidth=0.8, label="after")
        if LIMIT in series:
            steps, limits = _thinned(series[LIMIT])
            finite = np.where(np.isfinite(limits), limits, np.nan)
            axes.plot(steps, finite, color="black", linestyle="--", linewidth=1, label="limit")
        axes.set_yscale("log")
        axes.set_title(table.name(row) or "run", fontsize=9)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(rows) :]:
        axes.set_visible(False)
    figure.axes[0].set_ylabel("gradient norm")
    figure.axes[0].legend(fontsize=8)
    return True


def _thinned(series: Any, most: int = 1500) -> tuple[Any, Any]:
    """What a picture of this width can show: of each stretch the largest value, which is what is clipped."""
    steps, values = series
    if len(steps) <= most:
        return steps, values
    width = -(-len(steps) // most)
    whole = len(steps) // width * width
    return steps[:whole:width], values[:whole].reshape(-1, width).max(axis=1)


def _distribution(figure: Any, table: Table) -> bool:
    axes, found = figure.subplots(), False
    rows = [row for row in best_rows(table) if BEFORE in row.best_trial.series]
    norms = [row.best_trial.series[BEFORE].values for row in rows]
    norms = [each[np.isfinite(each) & (each > 0)] for each in norms]
    norms = [each for each in norms if each.size]
    if norms:
        found = True
        low, high = min(each.min() for each in norms), max(each.max() for each in norms)
        bins = np.geomspace(low * 0.99, high * 1.01, 60)
        for row, each in zip(rows, norms, strict=False):
            axes.hist(each, bins, weights=np.full(each.size, 1 / each.size), histtype="step", linewidth=1.5,
                      color=colour(table, row.policy), label=table.name(row) or "run")  # fmt: skip
    for policy in policies(table):
        tried = {row.threshold for row in table.rows if row.policy == policy and row.threshold is not None}
        for number, threshold in enumerate(sorted(tried)):
            axes.axvline(threshold, color=colour(table, policy), linestyle=":", linewidth=1.2,
                         label=f"thresholds of {policy}{_unit(policy)}" if number == 0 else None)  # fmt: skip
    axes.set(xscale="log", xlabel="norm before clipping", ylabel="share of steps")
    _finish(axes)
    return found


def _unit(policy: str) -> str:
    """What a policy's threshold is compared with, where it is not a norm."""
    schema = Policy.options.get(policy)
    return " (an element's)" if schema is not None and schema.kind == "elementwise" else ""


def _clipped(figure: Any, table: Table) -> bool:
    axes, found = figure.subplots(), False
    for policy in policies(table):
        rows = [row for row in line_rows(table, policy) if row.clipped is not None]
        if rows:
            found = True
            axes.plot([row.threshold for row in rows], [100 * (row.clipped or 0.0) for row in rows],
                      color=colour(table, policy), marker=marker(table, policy), label=f"clip={policy}")  # fmt: skip
    axes.set(xscale="log", ylim=(-3, 103), xlabel="threshold (clip.max; the median limit of adaptive policies)",
             ylabel="steps clipped, %")  # fmt: skip
    _finish(axes)
    return found


def _finish(axes: Any, title: str = "") -> None:
    axes.grid(alpha=0.3, which="both" if axes.get_xscale() == "log" else "major")
    if title:
        axes.set_title(title, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
