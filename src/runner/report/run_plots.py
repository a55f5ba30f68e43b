"""The plots of a report that show single runs: the best run of each policy."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.report.aggregate import Table
from runner.report.plot_style import (
    COLORS,
    best_rows,
    color_of,
    finish,
    marker_of,
    policies,
    run_label,
    run_name,
    use_plain_ticks,
)
from runner.report.trials import Series
from runner.tracking.tags import CLIP_LIMIT, NORM_AFTER, NORM_BEFORE, TRAIN_LOSS, VALIDATION_LOSS

MAX_POINTS = 1500  # of one line: more are not visible at the width of a plot
MAX_PANELS = 6
MAX_BINS = 60  # of a histogram: of fewer values, the root of their number


def plot_losses(figure: Any, table: Table) -> bool:
    """Draws the training and the validation loss of the runs."""
    axes, widths = figure.subplots(), set()
    shown: list[NDArray[np.float64]] = []  # the losses that determine the range of the axis
    for row in best_rows(table):
        series, color, marker = row.best_trial.series, color_of(table, row.policy), marker_of(table, row.policy)
        if TRAIN_LOSS in series:
            smooth, width = _moving_average(series[TRAIN_LOSS].values)
            widths.add(width)
            axes.plot(series[TRAIN_LOSS].steps, smooth, color=color, linewidth=0.8, alpha=0.8)
            shown += [smooth] if row.objectives else []
        if VALIDATION_LOSS in series:
            steps, values = series[VALIDATION_LOSS]
            axes.plot(steps, values, color=color, linewidth=2.2, marker=marker, markersize=4)
            shown += [values] if row.objectives else []
        axes.plot([], [], color=color, marker=marker, label=run_label(table, row))
    finite = np.concatenate([values[np.isfinite(values)] for values in shown] or [np.zeros(0)])
    if finite.size and finite.max() > finite.min():
        low, high = finite.min(), finite.max()
        axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))  # a diverged run leaves through the top
    spans = str(min(widths, default=1)) if len(widths) < 2 else f"{min(widths)} to {max(widths)}"
    kind, title = ("raw", "") if spans == "1" else ("moving average", f"moving average of {spans} logged steps")
    axes.set(xlabel="step", ylabel=f"training loss (thin, {kind})\nvalidation loss (thick, raw)")
    finish(axes, title)
    return bool(widths)


def _moving_average(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """The mean over the last hundredth of the run, [steps] like the values, and the number of values in a mean."""
    width = max(1, len(values) // 100)
    if width == 1:
        return values, width
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts), np.float64), width


def plot_norms(figure: Any, table: Table) -> bool:
    """Draws the norms and the limit of the runs, in a panel each."""
    rows = [row for row in best_rows(table) if NORM_BEFORE in row.best_trial.series][:MAX_PANELS]
    if not rows:
        return False
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    figure.set_size_inches(9, 1.4 + 2.6 * down)
    for axes, row in zip(figure.subplots(down, across, squeeze=False, sharey=True).flat, rows, strict=False):
        series = row.best_trial.series
        axes.plot(*_downsampled(series[NORM_BEFORE]), color=COLORS[0], linewidth=0.8, label="before")
        axes.plot(*_downsampled(series[NORM_AFTER]), color=COLORS[1], linewidth=0.8, label="after")
        other = row.settings.other_limit
        if CLIP_LIMIT in series and not other:
            steps, limits = _downsampled(series[CLIP_LIMIT])
            finite = np.where(np.isfinite(limits), limits, np.nan)
            axes.plot(steps, finite, color="black", linestyle="--", linewidth=1, label="limit")
        axes.set_yscale("log")
        use_plain_ticks(axes)
        name = run_name(table, row.best_trial) + (f" (limit {other})" if other else "")
        axes.set_title(f"{table.name(row)}\n{name}".strip(), fontsize=9)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(rows) :]:
        axes.set_visible(False)
    longest = max(len(row.best_trial.series[NORM_BEFORE].steps) for row in rows)
    raw = "raw" if longest <= MAX_POINTS else f"largest of {-(-longest // MAX_POINTS)} logged steps"
    for axes in figure.axes[: len(rows) : across]:
        axes.set_ylabel(f"gradient norm ({raw})")
    # Not every panel has a limit.
    max(figure.axes[: len(rows)], key=lambda axes: len(axes.lines)).legend(fontsize=8)
    return True


def _downsampled(series: Series) -> Series:
    """At most MAX_POINTS points: the largest value of each window, since peaks are what is clipped."""
    steps, values = series
    if len(steps) <= MAX_POINTS:
        return series
    width = -(-len(steps) // MAX_POINTS)
    whole = len(steps) // width * width
    return Series(steps[:whole:width], values[:whole].reshape(-1, width).max(axis=1))


def plot_distribution(figure: Any, table: Table) -> bool:
    """Draws a histogram of the norms of each run, and the thresholds of all rows."""
    axes = figure.subplots()
    norms = {}
    for row in best_rows(table):
        values = row.best_trial.series[NORM_BEFORE].values if NORM_BEFORE in row.best_trial.series else np.zeros(0)
        if (positive := values[np.isfinite(values) & (values > 0)]).size:
            norms[row.policy] = (run_label(table, row), positive)
    if norms:
        low, high = (bound(bound(values) for _, values in norms.values()) for bound in (min, max))
        largest = max(values.size for _, values in norms.values())
        bins = np.geomspace(low * 0.99, high * 1.01, 1 + min(MAX_BINS, math.ceil(math.sqrt(largest))))
        for policy, (name, values) in norms.items():
            axes.hist(values, bins, weights=np.full(values.size, 1 / values.size), histtype="step", linewidth=1.5,
                      color=color_of(table, policy), label=name)  # fmt: skip
    for policy in policies(table):
        rows = [row for row in table.rows
                if row.policy == policy and row.threshold is not None and not row.settings.other_limit]  # fmt: skip
        kind = "median limits" if any(row.fixed_threshold is None for row in rows) else "thresholds"
        for index, threshold in enumerate(sorted({row.threshold or 0.0 for row in rows})):
            axes.axvline(threshold, color=color_of(table, policy), linestyle=":", linewidth=1.2,
                         label=f"{kind} of {policy}" if index == 0 else None)  # fmt: skip
    axes.set(xscale="log", xlabel="gradient norm before clipping", ylabel="share of the run's logged steps")
    finish(axes)
    return bool(norms)
