"""The chart of an inspection: gradients by parameter and by time step."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import UserError
from runner.tracking.pictures import AFTER_COLOR, BEFORE_COLOR
from trainer.inspection import Inspection


def plot(inspection: Inspection, path: Path) -> None:
    """Draws the norm by parameter before and after clipping and, for a recurrent model, by time step.

    A norm that has no place on a logarithmic axis is written in words. Raises UserError if matplotlib is not installed
    or the file cannot be written.
    """
    pyplot = import_pyplot()
    names = list(inspection.parameters)
    panels = 2 if inspection.time_steps else 1
    figure, axes = pyplot.subplots(
        panels, 1, squeeze=False, figsize=(9, 1.6 + 0.25 * len(names) + 3 * (panels - 1)), layout="constrained",
        height_ratios=[1.2 + 0.25 * len(names), 3][:panels],
    )  # fmt: skip
    _draw_parameters(axes[0][0], inspection)
    if inspection.time_steps:
        _draw_time_steps(axes[1][0], inspection.time_steps, inspection.step)
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot {path}: cannot be written ({error})") from None
    finally:
        pyplot.close(figure)


def _draw_parameters(panel: Any, inspection: Inspection) -> None:
    """Draws a row for each parameter, the first at the top."""
    names, rows = list(inspection.parameters), range(len(inspection.parameters), 0, -1)
    norms = [parameter.gradient for parameter in inspection.parameters.values()]
    before, after = (list(map(_on_log_axis, values)) for values in (norms, map(inspection.after.get, names)))
    panel.set_xscale("log")  # before anything is drawn: matplotlib refuses it for values that are all nan
    panel.hlines(rows, after, before, color="#999999")
    panel.plot(before, rows, "o", color=BEFORE_COLOR, markerfacecolor="none", markersize=9, label="before clipping")
    panel.plot(after, rows, "o", color=AFTER_COLOR, markersize=4, label="after clipping")
    for row, norm, drawn in zip(rows, norms, before, strict=True):
        if math.isnan(drawn):
            text = "no gradient" if norm is None else "zero" if norm == 0 else "not finite"
            panel.text(0.01, row, text, transform=panel.get_yaxis_transform(), va="center", fontsize=8)
    labels = [f"{name} ({mark})" if (mark := inspection.marks.get(name)) else name for name in names]
    panel.set_yticks(list(rows), labels)
    title = f"gradients by parameter, step {inspection.step}"
    panel.set(ylim=(0.3, len(names) + 0.7), xlabel="2-norm of the gradient", title=title)
    panel.legend(fontsize=8)
    panel.grid(axis="x", alpha=0.3)


def _draw_time_steps(panel: Any, norms: Sequence[float], step: int) -> None:
    """Draws the norm at each time step; those that are 0 or not finite are gaps, which the title mentions."""
    drawn = list(map(_on_log_axis, norms))
    panel.set_yscale("log")
    panel.plot(range(1, len(drawn) + 1), drawn, color=BEFORE_COLOR)
    gaps = sum(map(math.isnan, drawn))
    note = f"; {gaps} of {len(drawn)} norms are 0 or not finite" if gaps else ""
    title = f"gradient of the last time step's loss, step {step}{note}"
    panel.set(xlim=(0, len(drawn) + 1), xlabel="time step", ylabel="2-norm, for the input at that step", title=title)
    panel.grid(alpha=0.3)


def _on_log_axis(norm: float | None) -> float:
    """The norm if a logarithmic axis can show it, else nan."""
    return norm if norm is not None and 0 < norm < math.inf else math.nan


def check_plot(path: Path) -> None:
    """Raises UserError, before anything is computed, if `plot` could not write the file."""
    pyplot = import_pyplot()
    figure = pyplot.figure()
    formats = figure.canvas.get_supported_filetypes()
    pyplot.close(figure)
    if path.suffix[1:] not in formats:
        raise UserError(f"--plot {path}: its ending must be one of {', '.join(sorted(formats))}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot {path}: no such folder")


def import_pyplot() -> Any:
    """matplotlib's pyplot, set to draw without a window. Raises UserError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError('--plot needs matplotlib: pip install -c constraints.txt -e ".[docs]"') from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
