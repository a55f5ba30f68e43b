"""The plots of a report, checked by what they draw for artificial sweeps."""

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.report import aggregate, plot_style, plots, run_plots
from tests.runner.test_report import grid, write_sweep
from tests.sweeps import FakeJob


def drawn(plot: Callable[[Any, aggregate.Table], bool], table: aggregate.Table) -> Any:
    """The figure of a plot."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    assert plot(figure, table)
    return figure


def test_a_threshold_per_element_is_not_drawn_among_norms(tmp_path: Path) -> None:
    jobs = grid({"none": [None, None], "norm@1": [1.49, 1.50], "value@0.02": [1.4, 1.41]})  # the best is first
    table = aggregate.build([write_sweep(tmp_path, jobs)])
    norms = drawn(run_plots.plot_norms, table)
    panels = {axes.get_title(): {line.get_label() for line in axes.lines} for axes in norms.axes if axes.get_title()}
    assert panels["clip=norm clip.max=1\njob 2, seed 1"] == {"before", "after", "limit"}
    assert panels["clip=value clip.max=0.02\njob 4, seed 1 (limit per element)"] == {"before", "after"}
    (legend,) = (axes.get_legend() for axes in norms.axes if axes.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == ["before", "after", "limit"]
    labels = drawn(run_plots.plot_distribution, table).axes[0].get_legend_handles_labels()[1]
    assert "thresholds of norm" in labels
    assert "thresholds of value" not in labels
    (objective,) = drawn(plots.plot_objective, table).axes
    assert [text.get_text() for text in objective.texts] == ["clip=none: 2 diverged"]
    assert not any("clip=none" in label for label in objective.get_legend_handles_labels()[1])


def test_the_number_of_runs_behind_a_point_is_visible(tmp_path: Path) -> None:
    """In the title, and beside the points with another number; where none finished, beside the mark at the top."""
    good = [1.4, 1.5, 1.6]
    found = {"norm@0.5": good, "norm@1": good, "norm@2": [1.4, 1.5, None], "norm@4": [None] * 3, "value@1": good}
    table = aggregate.build([write_sweep(tmp_path / "1", grid(found, value1_3="missing"))])
    (objective,) = drawn(plots.plot_objective, table).axes
    assert objective.get_title().startswith("3 of 3 runs finished at each point, unless noted; shaded, ")
    assert [text.xy[0] for text in objective.texts if text.get_text() == "0 of 3"] == [4]
    assert sorted(text.xy for text in objective.texts if text.get_text() == "2 of 3") == [
        (1, pytest.approx(1.45)), (2, pytest.approx(1.45))]  # fmt: skip
    (clipped,) = drawn(plots.plot_clipped, table).axes
    assert clipped.get_title() == "all logged steps of 3 runs at each point, diverged ones included, unless noted"
    assert [(text.get_text(), text.xy[0]) for text in clipped.texts] == [("2 runs", 1)]
    table = aggregate.build([write_sweep(tmp_path / "2", grid({"norm@1": [1.4, 1.5], "norm@2": [1.5, 1.6]}))])
    (objective,) = drawn(plots.plot_objective, table).axes
    assert objective.get_title() == "2 of 2 runs finished at each point"
    assert not objective.texts


@pytest.mark.parametrize("steps", [40, 400])
def test_the_axes_name_the_values_that_are_shown(tmp_path: Path, steps: int) -> None:
    """Raw or smoothed losses, the statistic of the limit, and which run a plot of one run shows."""
    jobs = [FakeJob(["clip=autoclip", f"seed={seed}"], 1.5 + 0.1 * seed, limit=0.3, steps=steps) for seed in (7, 8)]
    table = aggregate.build([write_sweep(tmp_path, jobs)])
    (losses,) = drawn(run_plots.plot_losses, table).axes
    (line, *_), width = losses.lines, steps // 100 or 1
    values = [3.0 + 2.0 * math.exp(-step / steps) for step in range(1, steps + 1)]
    mean = [statistics.fmean(values[max(0, end - width) : end]) for end in range(1, steps + 1)]
    np.testing.assert_allclose(line.get_ydata(), mean)
    kind = "raw" if width == 1 else "moving average"
    assert losses.get_ylabel() == f"training loss (thin, {kind})\nvalidation loss (thick, raw)"
    assert losses.get_title() == ("" if width == 1 else f"moving average of {width} logged steps")
    assert losses.get_legend_handles_labels()[1] == ["job 0, seed 7"]
    (objective,) = drawn(plots.plot_objective, table).axes
    assert "for adaptive policies the median limit" in objective.get_xlabel()
    assert objective.get_ylabel() == "best validation loss of a run,\nmean ± standard deviation over seeds"
    assert (
        "median limits of autoclip" in drawn(run_plots.plot_distribution, table).axes[0].get_legend_handles_labels()[1]
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scope": "layer"}, "per layer"),
        ({"name": "agc", "scope": "unit"}, "per unit"),
        ({"name": "chain"}, "of each link"),
        ({"name": "value"}, "per element"),
        ({"norm_type": 1.0}, "of the 1-norm"),
        ({"exclude": ["a"]}, "of some parameters"),
        ({}, None),
    ],
)
def test_only_a_limit_of_the_norm_of_the_model_is_drawn_beside_it(
    values: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    """The limit of a part, of another norm or of one of several policies is another number."""
    jobs = [FakeJob(["clip=autoclip", "seed=1"], 1.0, limit=0.02), FakeJob(["clip=none", "seed=1"], 2.0)]
    table = aggregate.build([write_sweep(tmp_path, jobs)])
    table.rows[0].values |= {f"clip.{key}": value for key, value in values.items()}
    name = f"clip={values.get('name', 'autoclip')}\njob 0, seed 1" + (f" (limit {words})" if words else "")
    panels = {axes.get_title(): {line.get_label() for line in axes.lines}
              for axes in drawn(run_plots.plot_norms, table).axes if axes.get_title()}  # fmt: skip
    assert panels.keys() == {name, "clip=none\njob 1, seed 1"}
    assert ("limit" in panels[name]) == (words is None)
    labels = drawn(run_plots.plot_distribution, table).axes[0].get_legend_handles_labels()[1]
    assert ("median limits of autoclip" in labels) == (words is None)
    assert any("limits of" in label for label in labels) == (words is None)


def test_the_means_without_a_threshold_have_a_band(tmp_path: Path) -> None:
    """As wide as the error bars of the others: the standard deviation over seeds, up and down."""
    table = aggregate.build([write_sweep(tmp_path, grid({"none": [1.1, 1.3, 1.2], "norm@1": [1.4, 1.5, 1.6]}))])
    (axes,) = drawn(plots.plot_objective, table).axes
    boxes = [patch.get_bbox() for patch in axes.patches]
    assert [(box.y0, box.y1) for box in boxes] == [(pytest.approx(1.1), pytest.approx(1.3))]


def test_a_plot_without_a_finished_run_says_so(tmp_path: Path) -> None:
    table = aggregate.build([write_sweep(tmp_path, grid({"norm@1": [None, None], "norm@5": [None, None]}))])
    (axes,) = drawn(plots.plot_objective, table).axes
    assert "no run finished" in [text.get_text() for text in axes.texts]
    assert not len(axes.get_yticks())


@pytest.mark.parametrize(("steps", "bins"), [(4, 2), (60, 8), (3000, 55), (10000, 60)])
def test_a_histogram_has_as_many_bins_as_its_values_fill(steps: int, bins: int, tmp_path: Path) -> None:
    """About the root of their number, and at most 60."""
    jobs = [FakeJob(["clip=norm", "clip.max=1", "seed=1"], 1.0, limit=1.0, steps=steps)]
    (axes,) = drawn(run_plots.plot_distribution, aggregate.build([write_sweep(tmp_path, jobs)])).axes
    assert sum(len(patch.get_xy()) > 3 for patch in axes.patches) == 1
    (outline,) = axes.patches
    assert len({round(x, 9) for x, _ in outline.get_xy()}) == bins + 1


def test_ticks_are_plain_numbers(tmp_path: Path) -> None:
    """Such as 0.5 and 100, and not 5 x 10 to a power, on axes of less than a decade, too."""
    limits = [0.3, 0.5, 0.9, 100, 2000]
    for some in (limits[:3], limits):
        objectives: dict[str, list[float | None]] = {f"norm@{limit:g}": [float(limit)] for limit in some}
        table = aggregate.build([write_sweep(tmp_path / str(len(some)), grid(objectives))])
        for plot in (plots.plot_objective, run_plots.plot_norms, run_plots.plot_distribution, plots.plot_clipped):
            figure = drawn(plot, table)
            figure.canvas.draw()
            for axes in (axes for axes in figure.axes if axes.get_visible()):
                for axis in (axes.xaxis, axes.yaxis):
                    labels = [label.get_text() for label in axis.get_ticklabels(which="both") if label.get_text()]
                    assert all(
                        re.fullmatch(r"-?\d+(\.\d+)?", label.replace("\N{MINUS SIGN}", "-")) for label in labels
                    ), labels
                    assert labels


def test_eight_policies_have_a_color_and_a_marker_each() -> None:
    assert len(set(plot_style.COLORS)) == len(set(plot_style.MARKERS)) == 8
