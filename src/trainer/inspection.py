"""The first gradients of a configured model: by parameter, by layer and by time step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import UserError
from trainer.config import Train
from trainer.data import Batch
from trainer.loop import take_step
from trainer.monitor.diagnosis import (
    EXPLODING,
    FROZEN,
    NON_FINITE,
    UNUSED,
    VANISHING,
    ZERO,
    ParameterNorms,
    mark_parameters,
    measure,
    split_norms,
    still_exploding,
    weight_norms,
)  # fmt: skip
from trainer.optimizers import set_lr
from trainer.state import TrainState, build

CLIPPED = f"{EXPLODING}, clipped"
COLUMNS = ("parameter", "shape", "weight", "before backward", "after backward", "after clipping", "ratio", "")
NAMES_NOTE = (
    "named_parameters() gives each parameter with its name, which a table, a pattern of clip.include and a warning "
    "need; parameters() gives the same tensors without names."
)
MEANINGS = {
    UNUSED: "backward left None: forward does not use the parameter, or detaches what depends on it",
    FROZEN: "requires_grad is false",
    ZERO: "every element of the gradient is 0: dead units, or a later factor of 0",
    EXPLODING: "the gradient exceeds {explode:g} times the weight (diagnosis.explode), after clipping too",
    CLIPPED: "the gradient exceeds {explode:g} times the weight (diagnosis.explode), but no longer after clipping",
    VANISHING: "the gradient is below {vanish_layer:g} of the model's largest, by element (diagnosis.vanish_layer), "
    "or below {vanish_weight:g} of its own weight (diagnosis.vanish_weight)",
    NON_FINITE: "an element of the gradient is nan or infinite",
}


@dataclass
class Inspection:
    """The measurements at the last of the inspected steps; the mappings are by parameter name.

    had_gradient: whether a gradient existed before backward. after: the norm after clipping, None without a gradient.
    time_steps: by time step, the norm of the gradient; None for a model that is not recurrent. step: the last step
    that was taken. stopped: the reason if fewer steps were taken than requested, else None.
    """

    parameters: dict[str, ParameterNorms]
    had_gradient: dict[str, bool]
    after: dict[str, float | None]
    marks: dict[str, str]
    time_steps: list[float] | None
    step: int
    stopped: str | None


def inspect(config: Train, steps: int) -> Inspection:
    """Builds the configured model and trains it for `steps` steps, without a run folder.

    Stops early at a non-finite gradient. Raises UserError for more steps than the run has.
    """
    if steps > config.steps:
        raise UserError(f"--steps={steps}: the run itself has steps={config.steps}")
    if config.clip.nonfinite == "error":
        config.clip.nonfinite = "keep"  # a non-finite gradient is shown in the table, and is not an error
    state = build(config)
    state.model.train()
    batches = state.data.batches(0)
    for step in range(1, steps + 1):
        batch = next(batches)
        with torch.random.fork_rng():  # the step draws the same random numbers, such as dropout masks, as in a run
            time_steps = through_time(state, batch)
        set_lr(state.optimizer, config.optimizer.lr * state.lr_factor(step))
        state.optimizer.zero_grad()
        had_gradient = {name: parameter.grad is not None for name, parameter in state.model.named_parameters()}
        weights = weight_norms(state.model)
        _, report = take_step(state, batch, check=step == 1)
        norms_before, norms_after = split_norms(report.by_parameter())
        measured = measure(state.model, weights, norms_before)
        marks = mark_parameters(measured, config.diagnosis, early=True)
        if NON_FINITE in marks.values():
            break
    after = {name: None if measured[name].gradient is None else norm for name, norm in norms_after.items()}
    exploding = still_exploding(measured, norms_after, config.diagnosis)
    marks |= {name: CLIPPED for name, mark in marks.items() if mark == EXPLODING and name not in exploding}
    stopped = f"stopped at step {step} of {steps}: a gradient is not finite" if step < steps else None
    return Inspection(measured, had_gradient, after, marks, time_steps, step, stopped)


def through_time(state: TrainState, batch: Batch) -> list[float] | None:
    """By time step, the norm over all rows of the gradient of the last time step's loss.

    The gradient is the one with respect to the input of the recurrent layers. Returns None for a model without
    recurrent layers. Leaves the parameters' gradients unchanged.
    """
    recurrent = next((module for module in state.model.modules() if isinstance(module, nn.RNNBase)), None)
    if recurrent is None:
        return None
    squares = []
    for inputs, targets in state.micro_batches(batch):
        with _captured_inputs(recurrent) as captured:
            outputs, _ = state.model(inputs, None)
        loss = state.data.loss(outputs, targets) * (len(inputs) / len(batch.inputs))
        (output_gradient,) = torch.autograd.grad(loss, outputs, retain_graph=True)
        if outputs.dim() == 3:  # outputs at every time step: keeps only the loss of the last one
            last = output_gradient[:, -1:]
            output_gradient = torch.cat([torch.zeros_like(output_gradient[:, :-1]), last], 1)
        (gradient,) = torch.autograd.grad(outputs, captured, output_gradient)
        squares.append(gradient.cpu().double().square().sum((0, 2)))
    norms: list[float] = torch.stack(squares).sum(0).sqrt().tolist()
    return norms


@contextmanager
def _captured_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which every forward pass of a module in the block appends its input, which requires a gradient."""
    captured: list[Tensor] = []

    def capture(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs = arguments[0] if arguments[0].requires_grad else arguments[0].detach().requires_grad_()
        captured.append(inputs)
        return (inputs, *arguments[1:])

    handle = module.register_forward_pre_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()


def table(inspection: Inspection, config: Train) -> str:
    """The table of an inspection, one row per parameter, and below it the meanings of its marks."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, norms in inspection.parameters.items():
        ratio = norms.gradient / norms.weight if norms.gradient is not None and norms.weight else None
        shape = "x".join(str(size) for size in norms.shape) or "scalar"
        before = "a tensor" if inspection.had_gradient[name] else "None"
        numbers = (norms.gradient, inspection.after[name], ratio)
        mark = inspection.marks.get(name, "")
        rows.append((name, shape, f"{norms.weight:.4g}", before, *map(_format_number, numbers), mark))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(_align(row, widths)).rstrip() for row in rows]
    heading = f"step {inspection.step}; norms are 2-norms, ratio is the gradient's after backward to the weight's"
    stopped = [inspection.stopped] if inspection.stopped else []
    return "\n".join([heading, "", *lines, "", *stopped, *_legend(inspection.marks, config), NAMES_NOTE])


def _legend(marks: Mapping[str, str], config: Train) -> list[str]:
    """The meaning of each mark that occurs."""
    limits = vars(config.diagnosis)
    return [f"{mark}: {text.format(**limits)}" for mark, text in MEANINGS.items() if mark in marks.values()]


def _align(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The cells padded to their columns' widths: the first and the last to the left, numbers to the right."""
    last = len(row) - 1
    return [f"{cell:<{w}}" if column in (0, last) else f"{cell:>{w}}" for column, (cell, w) in
            enumerate(zip(row, widths, strict=True))]  # fmt: skip


def _format_number(number: float | None) -> str:
    return "None" if number is None else f"{number:.4g}"


def describe_time_decay(norms: Sequence[float]) -> str:
    """One line that compares the norm at the first time step with that at the last."""
    first, last = norms[0], norms[-1]
    ratio = f" ({first / last:.3g} times that)" if last > 0 else ""
    return (
        f"through time: the last time step's loss has a gradient of norm {last:.3g} for the input at time step "
        f"{len(norms)}, and {first:.3g} at time step 1{ratio}"
    )


def plot(inspection: Inspection, path: Path) -> None:
    """Draws the norm by parameter before and after clipping and, for a recurrent model, by time step.

    Raises UserError if matplotlib is not installed or the file cannot be written.
    """
    pyplot = import_pyplot()
    from runner.tracking.pictures import AFTER_COLOR, BEFORE_COLOR

    names = list(inspection.parameters)
    panels = 2 if inspection.time_steps else 1
    figure, axes = pyplot.subplots(
        panels, 1, squeeze=False, figsize=(9, 1.6 + 0.25 * len(names) + 3 * (panels - 1)), layout="constrained",
        height_ratios=[1.2 + 0.25 * len(names), 3][:panels],
    )  # fmt: skip
    norms_axes = axes[0][0]
    rows = range(len(names), 0, -1)
    before = [norms.gradient or float("nan") for norms in inspection.parameters.values()]
    after = [inspection.after[name] or float("nan") for name in names]
    norms_axes.hlines(rows, after, before, color="#999999")
    norms_axes.plot(
        before, rows, "o", color=BEFORE_COLOR, markerfacecolor="none", markersize=9, label="before clipping"
    )
    norms_axes.plot(after, rows, "o", color=AFTER_COLOR, markersize=4, label="after clipping")
    labels = [f"{name} ({mark})" if (mark := inspection.marks.get(name)) else name for name in names]
    norms_axes.set_yticks(list(rows), labels)
    norms_axes.set(
        xscale="log", xlabel="2-norm of the gradient", title=f"gradients by parameter, step {inspection.step}"
    )
    norms_axes.legend(fontsize=8)
    norms_axes.grid(axis="x", alpha=0.3)
    if inspection.time_steps:
        time = axes[1][0]
        time.plot(range(1, len(inspection.time_steps) + 1), inspection.time_steps, color=BEFORE_COLOR)
        time.set(
            yscale="log",
            xlabel="time step",
            ylabel="2-norm, for the input at that step",
            title=f"gradient of the last time step's loss, step {inspection.step}",
        )
        time.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot {path}: cannot be written ({error})") from None
    finally:
        pyplot.close(figure)


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
