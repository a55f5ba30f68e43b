"""The plots of a report: the objective and the share of clipped steps against the threshold, and those of runs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.printable import count_of
from runner.report.aggregate import Table
from runner.report.plot_style import color_of, finish, marker_of, note, policies
from runner.report.rows import Row
from runner.report.run_plots import plot_distribution, plot_losses, plot_norms

THRESHOLD_LABEL = "threshold: clip.max, for adaptive policies the median limit over all logged steps"


def draw(table: Table, folder: Path) -> dict[str, Path]:
    """Writes a PNG for each plot that has data; their paths by caption."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, plot, caption in (
        ("objective", plot_objective, "Best validation loss against threshold; shaded: thresholds with diverged runs"),
        ("loss", plot_losses, "Loss of the best run of each policy: training (thin) and validation (thick)"),
        ("norms", plot_norms, "Gradient norm before and after clipping, and limit, of the best run of each policy"),
        ("distribution", plot_distribution,
         "Distribution of the norm before clipping in the best run of each policy, and all thresholds tried"),
        ("clipped", plot_clipped, "Share of logged steps in which any gradient was clipped"),
    ):  # fmt: skip
        figure = pyplot.figure(figsize=(9, 4.2), dpi=100, layout="constrained")
        if plot(figure, table):
            path = folder / f"report_{name}.png"
            figure.savefig(path)
            paths[caption] = path
        pyplot.close(figure)
    return paths


def rows_by_threshold(table: Table, policy: str) -> list[Row]:
    """The rows of a policy with the values of its best row outside `clip`, in ascending order of the threshold."""
    best = next(row for row in table.rows if row.policy == policy)
    fixed = [key for key in table.columns if not key.startswith("clip.")]
    rows = [row for row in table.rows
            if row.policy == policy and all(row.values.get(key) == best.values.get(key) for key in fixed)]  # fmt: skip
    return sorted((row for row in rows if row.threshold is not None), key=lambda row: row.threshold or 0.0)


def plot_objective(figure: Any, table: Table) -> bool:
    """Draws the mean objective of every threshold, and marks those at which runs diverged."""
    thresholds = sorted({row.threshold for row in table.rows if row.threshold is not None})
    if not thresholds:
        return False
    axes, counts = figure.subplots(), {id(row): f"{len(row.objectives)} of {len(row.trials)}" for row in table.rows}
    usual = _most_frequent([counts[id(row)] for row in table.rows if row.objectives] or list(counts.values()))
    unusual = {key: count for key, count in counts.items() if count != usual}
    for policy in policies(table):
        rows = rows_by_threshold(table, policy)
        _draw_means(axes, table, policy, rows, unusual)
        _draw_without_threshold(axes, table, policy, unusual)
        _mark_diverged(axes, rows, color_of(table, policy), thresholds, unusual)
    axes.set(xscale="log", xlabel=THRESHOLD_LABEL,
             ylabel="best validation loss of a run,\nmean ± standard deviation over seeds")  # fmt: skip
    means = [row.mean for row in table.rows if row.objectives]
    if not means:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center")
    elif max(means) > 5 * min(means) > 0:
        axes.set_yscale("log")
    marked = any(row.counts["diverged"] and row.threshold is not None for row in table.rows)
    shading = "; shaded, with an x at the top: at least one seed diverged" if marked else ""
    finish(axes, f"{usual} runs finished at each point{', unless noted' if unusual else ''}{shading}")
    return True


def _most_frequent(texts: Sequence[str]) -> str:
    return Counter(texts).most_common(1)[0][0]


def _draw_means(axes: Any, table: Table, policy: str, rows: Sequence[Row], unusual: dict[int, str]) -> None:
    """Draws the means of one policy. unusual: numbers of runs to write at points, by the row's id."""
    color, finished = color_of(table, policy), [row for row in rows if row.objectives]
    axes.errorbar(
        [row.threshold for row in finished], [row.mean for row in finished],
        [row.standard_deviation or 0.0 for row in finished], color=color, marker=marker_of(table, policy), capsize=3,
        linewidth=1.5, label=f"clip={policy}" if rows else None,
    )  # fmt: skip
    for row in finished:
        if id(row) in unusual:
            note(axes, unusual[id(row)], (row.threshold, row.mean), color)


def _mark_diverged(
    axes: Any, rows: Sequence[Row], color: str, thresholds: Sequence[float], unusual: dict[int, str]
) -> None:
    """Shades the thresholds of the rows with a diverged run; writes the number of runs where no mean is drawn."""
    for row in (row for row in rows if row.counts["diverged"]):
        axes.axvspan(*_interval(row.threshold or 1.0, thresholds), color=color, alpha=0.12, linewidth=0)
        at_top = axes.get_xaxis_transform()
        axes.plot([row.threshold], [1.0], marker="x", color=color, markersize=9, clip_on=False, transform=at_top,
                  linestyle="")  # fmt: skip
        if id(row) in unusual and not row.objectives:
            note(axes, unusual[id(row)], (row.threshold, 1.0), color, transform=at_top, below=True)


def _draw_without_threshold(axes: Any, table: Table, policy: str, unusual: dict[int, str]) -> None:
    """A line and a band at the best row of a policy that has no threshold; a line of text if no run finished."""
    row = next((row for row in table.rows if row.policy == policy and row.threshold is None), None)
    if row is None:
        return
    color = color_of(table, policy)
    if row.objectives:
        count = f" ({unusual[id(row)]} runs)" if id(row) in unusual else ""
        spread = row.standard_deviation or 0.0
        axes.axhspan(row.mean - spread, row.mean + spread, color=color, alpha=0.12, linewidth=0)
        axes.axhline(row.mean, color=color, linestyle="--", label=f"clip={policy}{count}")
    else:
        height = 0.03 + 0.06 * sum(text.get_transform() == axes.transAxes for text in axes.texts)
        states = ", ".join(f"{count} {state}" for state, count in row.counts.items())
        axes.text(0.02, height, f"clip={policy}: {states}", color=color, transform=axes.transAxes)


def _interval(threshold: float, thresholds: Sequence[float]) -> tuple[float, float]:
    """The interval around a threshold up to the middle, on a logarithmic axis, between it and its neighbors."""
    index = list(thresholds).index(threshold)
    below = thresholds[index - 1] if index else threshold / 2
    above = thresholds[index + 1] if index + 1 < len(thresholds) else threshold * 2
    return float(np.sqrt(below * threshold)), float(np.sqrt(above * threshold))


def plot_clipped(figure: Any, table: Table) -> bool:
    """Draws the share of clipped steps of every threshold."""
    drawn = {policy: [row for row in rows_by_threshold(table, policy) if row.clipped is not None]
             for policy in policies(table)}  # fmt: skip
    counts = {id(row): str(row.logged) for rows in drawn.values() for row in rows}
    if not counts:
        return False
    axes, usual = figure.subplots(), _most_frequent(list(counts.values()))
    for policy, rows in drawn.items():
        color, shares = color_of(table, policy), [100 * (row.clipped or 0.0) for row in rows]
        if rows:
            axes.plot([row.threshold for row in rows], shares, color=color, marker=marker_of(table, policy),
                      label=f"clip={policy}")  # fmt: skip
        for row, share in zip(rows, shares, strict=True):
            if counts[id(row)] != usual:
                note(axes, f"{count_of(row.logged, 'run')}", (row.threshold, share), color)
    axes.set(xscale="log", ylim=(-3, 103), xlabel=THRESHOLD_LABEL, ylabel="logged steps that were clipped, %")
    unless = "" if len(set(counts.values())) == 1 else ", unless noted"
    finish(axes, f"all logged steps of {count_of(int(usual), 'run')} at each point, diverged ones included{unless}")
    return True
