"""The first gradients of a configured model: by parameter, by layer and by time step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from runner.errors import UserError
from trainer.config import Diagnosis, Train
from trainer.data import Batch
from trainer.loop import batches, take_step
from trainer.monitor.marks import (
    EXPLODING,
    MEANINGS,
    NON_FINITE,
    ParameterChecks,
    ParameterNorms,
    after_clipping,
    exploding,
    measure,
    split_norms,
    weight_norms,
)
from trainer.monitor.update_norm import snapshot, update_norms
from trainer.optimizers import set_lr
from trainer.state import TrainState, initial_state

CLIPPED = f"{EXPLODING}, clipped"
COLUMNS = ("parameter", "shape", "weight", "before backward", "after backward", "after clipping", "ratio", "")
NAMES_NOTE = (
    "named_parameters() gives each parameter with its name, which a table, a pattern of clip.include and a warning "
    "need; parameters() gives the same tensors without names."
)
CLIPPED_MEANING = "the gradient exceeds {explode:g} times the weight (diagnosis.explode), but no longer after clipping"


@dataclass
class Inspection:
    """The measurements at the last of the inspected steps; the mappings are by parameter name.

    had_gradient: whether a gradient existed before backward. after: the norm after clipping, None without a gradient.
    time_steps: by time step, the norm of the gradient; None for a model that is not recurrent. step: the last step
    that was taken. update: the norm of its change of the weights, as a share of theirs; None if it was dropped.
    stopped: the reason if the inspection ended at a gradient that is not finite, else None.
    """

    parameters: dict[str, ParameterNorms]
    had_gradient: dict[str, bool]
    after: dict[str, float | None]
    marks: dict[str, str]
    time_steps: list[float] | None
    step: int
    update: float | None
    stopped: str | None


def inspect(config: Train, steps: int) -> Inspection:
    """Builds the configured model and trains it for `steps` steps, without a run folder.

    Stops early at a non-finite gradient. Raises UserError for more steps than the run has, and for a run to resume.
    """
    if steps > config.steps:
        raise UserError(f"--steps={steps}: the run itself has steps={config.steps}")
    if config.resume is not None:
        raise UserError(f"resume={config.resume}: init_from=FILE inspects the weights of a checkpoint")
    if config.clip.nonfinite == "error":
        config.clip.nonfinite = "keep"  # a non-finite gradient is shown in the table, and is not an error
    state = initial_state(config)
    checks = ParameterChecks(config.diagnosis)
    for step, batch in enumerate(islice(batches(state), steps), start=1):
        with torch.random.fork_rng():  # the step draws the same random numbers, such as dropout masks, as in a run
            time_steps = through_time(state, batch)
        set_lr(state.optimizer, state.lr_at(step))
        state.optimizer.zero_grad()
        had_gradient = {name: parameter.grad is not None for name, parameter in state.model.named_parameters()}
        weights, copy = weight_norms(state.model), snapshot(state.model)
        _, report = take_step(state, batch, check=step == 1)
        norms_before, norms_after = split_norms(report.by_parameter())
        measured = measure(state.model, weights, norms_before)
        marks = checks.add(measured)
        weight, change = update_norms(state.model, copy).tolist()
        if NON_FINITE in marks.values():
            break
    after = {name: None if measured[name].gradient is None else norm for name, norm in norms_after.items()}
    still = exploding(after_clipping(measured, norms_after), config.diagnosis.explode)
    marks |= {name: CLIPPED for name, mark in marks.items() if mark == EXPLODING and name not in still}
    update = None if report.dropped else change / (weight or 1.0)
    stopped = f"stopped at step {step} of {steps}: a gradient is not finite" if NON_FINITE in marks.values() else None
    return Inspection(measured, had_gradient, after, marks, time_steps, step, update, stopped)


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
    ending = inspection.stopped or _describe_update(inspection.update, config.diagnosis)
    return "\n".join([heading, "", *lines, "", ending, *_legend(inspection.marks, config), NAMES_NOTE])


def _describe_update(ratio: float | None, limits: Diagnosis) -> str:
    """One line on the size of a step's update, with the bounds of the warnings."""
    if ratio is None:
        return "update: none, since clipping dropped the step"
    if ratio > limits.update_max:
        judged = f"large: above {limits.update_max:g}, diagnosis.update_max"
    elif ratio < limits.update_min:
        judged = f"small: below {limits.update_min:g}, diagnosis.update_min"
    else:
        judged = "neither large nor small"
    return f"update: the step changed the weights by {ratio:.3g} of their norm ({judged})"


def _legend(marks: Mapping[str, str], config: Train) -> list[str]:
    """The meaning of each mark that occurs."""
    limits = vars(config.diagnosis)
    meanings = MEANINGS | {CLIPPED: CLIPPED_MEANING}
    return [f"{mark}: {text.format(**limits)}" for mark, text in meanings.items() if mark in marks.values()]


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
