"""The plots of a report, in colors that people with color blindness can distinguish (Okabe and Ito), with markers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradclip.policies import Policy
from runner.report.aggregate import Row, Table
from runner.report.trials import Series
from runner.tracking.tags import CLIP_LIMIT, NORM_AFTER, NORM_BEFORE, TRAIN_LOSS, VALIDATION_LOSS

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
THRESHOLD_LABEL = "threshold (clip.max; for adaptive policies the median limit)"
MAX_POINTS = 1500  # of one line: more are not visible at the width of a plot
MAX_PANELS = 6


def draw(table: Table, folder: Path) -> dict[str, Path]:
    """Writes a PNG for each plot that has data; their paths by caption."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, plot, caption in (
        ("objective", _plot_objective, "Objective against threshold; shaded: thresholds at which runs diverged"),
        ("loss", _plot_losses, "Loss of the best run of each policy: training (thin, smoothed) and validation (thick)"),
        ("norms", _plot_norms, "Gradient norm before and after clipping, and limit, of the best run of each policy"),
        ("distribution", _plot_distribution,
         "Distribution of the norm before clipping in the best run of each policy, and all thresholds tried"),
        ("clipped", _plot_clipped, "Share of steps in which any gradient was clipped"),
    ):  # fmt: skip
        figure = pyplot.figure(figsize=(9, 4.2), dpi=100, layout="constrained")
        if plot(figure, table):
            path = folder / f"report_{name}.png"
            figure.savefig(path)
            paths[caption] = path
        pyplot.close(figure)
    return paths


def policies(table: Table) -> list[str]:
    """The names of the policies, in the order of their best rows."""
    return list(dict.fromkeys(row.policy for row in table.rows))


def color_of(table: Table, policy: str) -> str:
    """The color of a policy, the same in all plots."""
    return COLORS[policies(table).index(policy) % len(COLORS)]


def marker_of(table: Table, policy: str) -> str:
    """The marker of a policy, the same in all plots."""
    return MARKERS[policies(table).index(policy) % len(MARKERS)]


def best_rows(table: Table) -> list[Row]:
    """The best row of each policy."""
    return [next(row for row in table.rows if row.policy == policy) for policy in policies(table)]


def rows_by_threshold(table: Table, policy: str) -> list[Row]:
    """The rows of a policy with the values of its best row outside `clip`, in ascending order of the threshold."""
    best = next(row for row in table.rows if row.policy == policy)
    fixed = [key for key in table.columns if not key.startswith("clip.")]
    rows = [row for row in table.rows
            if row.policy == policy and all(row.values.get(key) == best.values.get(key) for key in fixed)]  # fmt: skip
    return sorted((row for row in rows if row.threshold is not None), key=lambda row: row.threshold or 0.0)


def _plot_objective(figure: Any, table: Table) -> bool:
    thresholds = sorted({row.threshold for row in table.rows if row.threshold is not None})
    if not thresholds:
        return False
    axes = figure.subplots()
    for policy in policies(table):
        color, marker, rows = color_of(table, policy), marker_of(table, policy), rows_by_threshold(table, policy)
        finished = [row for row in rows if row.objectives]
        axes.errorbar(
            [row.threshold for row in finished], [row.mean for row in finished],
            [row.standard_deviation or 0.0 for row in finished], color=color, marker=marker, capsize=3, linewidth=1.5,
            label=f"clip={policy}" if rows else None,
        )  # fmt: skip
        _draw_without_threshold(axes, table, policy)
        for row in rows:
            if row.counts["diverged"]:
                axes.axvspan(*_interval(row.threshold or 1.0, thresholds), color=color, alpha=0.12, linewidth=0)
                axes.plot([row.threshold], [1.0], marker="x", color=color, markersize=9, clip_on=False,
                          transform=axes.get_xaxis_transform(), linestyle="")  # fmt: skip
    axes.set(xscale="log", xlabel=THRESHOLD_LABEL, ylabel="best validation loss, mean ± SD over seeds")
    means = [row.mean for row in table.rows if row.objectives]
    if means and max(means) > 5 * min(means) > 0:
        axes.set_yscale("log")
    diverged = any(row.counts["diverged"] and row.threshold is not None for row in table.rows)
    _finish(axes, "shaded, with an x at the top: at least one seed diverged" if diverged else "")
    return True


def _draw_without_threshold(axes: Any, table: Table, policy: str) -> None:
    """A horizontal line at the best row of a policy that has no threshold; a line of text if no run finished."""
    row = next((row for row in table.rows if row.policy == policy and row.threshold is None), None)
    if row is None:
        return
    color = color_of(table, policy)
    if row.objectives:
        axes.axhline(row.mean, color=color, linestyle="--", label=f"clip={policy}")
    else:
        height = 0.03 + 0.06 * len(axes.texts)
        axes.text(0.02, height, f"clip={policy}: {', '.join(row.counts)}", color=color, transform=axes.transAxes)


def _interval(threshold: float, thresholds: Sequence[float]) -> tuple[float, float]:
    """The interval around a threshold up to the middle, on a logarithmic axis, between it and its neighbors."""
    index = list(thresholds).index(threshold)
    below = thresholds[index - 1] if index else threshold / 2
    above = thresholds[index + 1] if index + 1 < len(thresholds) else threshold * 2
    return float(np.sqrt(below * threshold)), float(np.sqrt(above * threshold))


def _plot_losses(figure: Any, table: Table) -> bool:
    axes, has_data = figure.subplots(), False
    shown: list[NDArray[np.float64]] = []  # the losses that determine the range of the axis
    for row in best_rows(table):
        series, color, marker = row.best_trial.series, color_of(table, row.policy), marker_of(table, row.policy)
        if TRAIN_LOSS in series:
            has_data = True
            smooth = _moving_average(series[TRAIN_LOSS].values)
            axes.plot(series[TRAIN_LOSS].steps, smooth, color=color, linewidth=0.8, alpha=0.8)
            shown += [smooth] if row.objectives else []
        if VALIDATION_LOSS in series:
            steps, values = series[VALIDATION_LOSS]
            axes.plot(steps, values, color=color, linewidth=2.2, marker=marker, markersize=4)
            shown += [values] if row.objectives else []
        axes.plot([], [], color=color, marker=marker, label=table.name(row) or "run")
    finite = np.concatenate([values[np.isfinite(values)] for values in shown] or [np.zeros(0)])
    if finite.size and finite.max() > finite.min():
        low, high = finite.min(), finite.max()
        axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))  # a diverged run leaves through the top
    axes.set(xlabel="step", ylabel="loss")
    _finish(axes)
    return has_data


def _moving_average(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last hundredth of the run, [steps] like the values."""
    width = max(1, len(values) // 100)
    if width == 1:
        return values
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts), np.float64)


def _plot_norms(figure: Any, table: Table) -> bool:
    rows = [row for row in best_rows(table) if NORM_BEFORE in row.best_trial.series][:MAX_PANELS]
    if not rows:
        return False
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    figure.set_size_inches(9, 1.2 + 2.6 * down)
    for axes, row in zip(figure.subplots(down, across, squeeze=False, sharey=True).flat, rows, strict=False):
        series = row.best_trial.series
        axes.plot(*_downsampled(series[NORM_BEFORE]), color=COLORS[0], linewidth=0.8, label="before")
        axes.plot(*_downsampled(series[NORM_AFTER]), color=COLORS[1], linewidth=0.8, label="after")
        elementwise = _is_elementwise(row.policy)  # its limit is that of an element, and no norm
        if CLIP_LIMIT in series and not elementwise:
            steps, limits = _downsampled(series[CLIP_LIMIT])
            finite = np.where(np.isfinite(limits), limits, np.nan)
            axes.plot(steps, finite, color="black", linestyle="--", linewidth=1, label="limit")
        axes.set_yscale("log")
        axes.set_title((table.name(row) or "run") + (" (per element)" if elementwise else ""), fontsize=9)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(rows) :]:
        axes.set_visible(False)
    figure.axes[0].set_ylabel("gradient norm")
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


def _plot_distribution(figure: Any, table: Table) -> bool:
    axes = figure.subplots()
    norms = {}
    for row in best_rows(table):
        values = row.best_trial.series[NORM_BEFORE].values if NORM_BEFORE in row.best_trial.series else np.zeros(0)
        if (positive := values[np.isfinite(values) & (values > 0)]).size:
            norms[row.policy] = (table.name(row) or "run", positive)
    if norms:
        low, high = (bound(bound(values) for _, values in norms.values()) for bound in (min, max))
        bins = np.geomspace(low * 0.99, high * 1.01, 60)
        for policy, (name, values) in norms.items():
            axes.hist(values, bins, weights=np.full(values.size, 1 / values.size), histtype="step", linewidth=1.5,
                      color=color_of(table, policy), label=name)  # fmt: skip
    for policy in policies(table):
        if _is_elementwise(policy):
            continue
        tried = {row.threshold for row in table.rows if row.policy == policy and row.threshold is not None}
        for index, threshold in enumerate(sorted(tried)):
            axes.axvline(threshold, color=color_of(table, policy), linestyle=":", linewidth=1.2,
                         label=f"thresholds of {policy}" if index == 0 else None)  # fmt: skip
    axes.set(xscale="log", xlabel="gradient norm before clipping", ylabel="share of steps")
    _finish(axes)
    return bool(norms)


def _is_elementwise(policy: str | None) -> bool:
    """Whether a policy's threshold is compared with elements, not with norms."""
    schema = Policy.options.get(policy or "")
    return schema is not None and schema.kind == "elementwise"


def _plot_clipped(figure: Any, table: Table) -> bool:
    axes, has_data = figure.subplots(), False
    for policy in policies(table):
        rows = [row for row in rows_by_threshold(table, policy) if row.clipped is not None]
        if rows:
            has_data = True
            axes.plot([row.threshold for row in rows], [100 * (row.clipped or 0.0) for row in rows],
                      color=color_of(table, policy), marker=marker_of(table, policy),
                      label=f"clip={policy}")  # fmt: skip
    axes.set(xscale="log", ylim=(-3, 103), xlabel=THRESHOLD_LABEL, ylabel="steps clipped, %")
    _finish(axes)
    return has_data


def _finish(axes: Any, title: str = "") -> None:
    """Adds the grid, the title and the legend."""
    axes.grid(alpha=0.3, which="both" if axes.get_xscale() == "log" else "major")
    if title:
        axes.set_title(title, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
