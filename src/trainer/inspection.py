"""A look at the first gradients of a configured model: by parameter, by layer and by time step."""

from collections.abc import Iterator, Sequence
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
    Measured,
    marks,
    measure,
    split,
    still_exploding,
    weight_norms,
)  # fmt: skip
from trainer.optimizers import set_lr
from trainer.state import TrainState, build

CLIPPED = f"{EXPLODING}, clipped"
COLUMNS = ("parameter", "shape", "weight", "before backward", "after backward", "after clipping", "ratio", "")
NAMES = (
    "named_parameters() gives each parameter with its name, which a table, a pattern of clip.include and a warning "
    "need; parameters() gives the same tensors without."
)
MEANINGS = {
    UNUSED: "backward left None: forward does not use it, or something on the way is detached",
    FROZEN: "requires_grad is false",
    ZERO: "a gradient, but all of it 0: dead units, or a factor of 0 above",
    EXPLODING: "the gradient exceeds {explode:g} times the weight (diagnosis.explode), after clipping too",
    CLIPPED: "the gradient exceeds {explode:g} times the weight (diagnosis.explode), but no longer after clipping",
    VANISHING: "it is below {vanish_layer:g} of the model's largest, by element (diagnosis.vanish_layer), "
    "or below {vanish_weight:g} of its own weight (diagnosis.vanish_weight)",
    NON_FINITE: "nan or infinite",
}


@dataclass
class Inspection:
    """What the last of the inspected steps showed. after: by parameter, the norm that clipping left, or None."""

    parameters: dict[str, Measured]
    earlier: dict[str, bool]  # whether a gradient was there before backward
    after: dict[str, float | None]
    marks: dict[str, str]
    steps: list[float] | None  # by time step, where the model is recurrent
    ended: str | None  # why fewer steps were taken than asked for
    taken: int


def inspect(config: Train, steps: int) -> Inspection:
    """Builds what a configuration asks for and takes so many steps of training, without a folder.

    Ends early at a gradient that is not finite. Raises UserError for more steps than the run has.
    """
    if steps > config.steps:
        raise UserError(f"--steps={steps}: the run itself has steps={config.steps}")
    if config.clip.nonfinite == "error":
        config.clip.nonfinite = "keep"  # to show them
    state = build(config)
    state.model.train()
    batches = state.data.batches(0)
    with torch.random.fork_rng():  # the steps then are those of the run, dropout included
        time_steps = through_time(state, next(state.data.batches(0)))
    for step in range(1, steps + 1):
        batch = next(batches)
        set_lr(state.optimizer, config.optimizer.lr * state.lr_factor(step))
        state.optimizer.zero_grad()
        earlier = {name: parameter.grad is not None for name, parameter in state.model.named_parameters()}
        weights = weight_norms(state.model)
        _, report = take_step(state, batch, check=step == 1)
        before, given = split(report.by_parameter())
        found = measure(state.model, weights, before)
        words = marks(found, config.diagnosis, early=True)
        if NON_FINITE in words.values():
            break
    after = {name: None if found[name].gradient is None else norm for name, norm in given.items()}
    still = still_exploding(found, given, config.diagnosis)
    words |= {name: CLIPPED for name, word in words.items() if word == EXPLODING and name not in still}
    ended = f"stopped at step {step} of {steps}: a gradient is not finite" if step < steps else None
    return Inspection(found, earlier, after, words, time_steps, ended, step)


def through_time(state: TrainState, batch: Batch) -> list[float] | None:
    """By time step, the norm of the gradient that the last step's loss has with regard to the recurrent layers' input.

    It is the norm over all rows of the batch; None for a model without recurrent layers. Leaves the
    parameters' gradients alone.
    """
    core = next((module for module in state.model.modules() if isinstance(module, nn.RNNBase)), None)
    if core is None:
        return None
    squares = []
    for inputs, targets in state.micro_batches(batch):
        with _watched(core) as entered:
            outputs, _ = state.model(inputs, None)
        loss = state.data.loss(outputs, targets) * (len(inputs) / len(batch.inputs))
        (above,) = torch.autograd.grad(loss, outputs, retain_graph=True)
        if outputs.dim() == 3:  # a score at every step: only the last one's loss, to see how far back it reaches
            above = torch.cat([torch.zeros_like(above[:, :-1]), above[:, -1:]], 1)
        (gradient,) = torch.autograd.grad(outputs, entered, above)
        squares.append(gradient.cpu().double().square().sum((0, 2)))
    norms: list[float] = torch.stack(squares).sum(0).sqrt().tolist()
    return norms


@contextmanager
def _watched(core: nn.Module) -> Iterator[list[Tensor]]:
    """The tensors that enter a module in a forward pass, in a list that is filled when it has run."""
    entered: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first = arguments[0] if arguments[0].requires_grad else arguments[0].detach().requires_grad_()
        entered.append(first)
        return (first, *arguments[1:])

    handle = core.register_forward_pre_hook(keep)
    try:
        yield entered
    finally:
        handle.remove()


def table(inspection: Inspection, config: Train) -> str:
    """The rows, then what the marks in them mean."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, each in inspection.parameters.items():
        ratio = each.gradient / each.weight if each.gradient is not None and each.weight else None
        shape = "x".join(str(size) for size in each.shape) or "scalar"
        before = "a tensor" if inspection.earlier[name] else "None"
        numbers = (each.gradient, inspection.after[name], ratio)
        mark = inspection.marks.get(name, "")
        rows.append((name, shape, f"{each.weight:.4g}", before, *(_shown(number) for number in numbers), mark))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    limits = vars(config.diagnosis)
    found = [f"{word}: {text.format(**limits)}" for word, text in MEANINGS.items() if word in inspection.marks.values()]
    count = f"step {inspection.taken}; norms are 2-norms, ratio is that after backward to the weight's"
    ended = [inspection.ended] if inspection.ended else []
    return "\n".join([count, "", *lines, "", *ended, *found, NAMES])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names and marks to the left, numbers to the right."""
    last = len(row) - 1
    return [f"{cell:<{w}}" if column in (0, last) else f"{cell:>{w}}" for column, (cell, w) in
            enumerate(zip(row, widths, strict=True))]  # fmt: skip


def _shown(number: float | None) -> str:
    return "None" if number is None else f"{number:.4g}"


def describe_time_decay(norms: Sequence[float]) -> str:
    """One line on the norms by time step: how the first compares with the last."""
    first, last = norms[0], norms[-1]
    ratio = f", {first / last:.3g} times that" if last > 0 else ""
    return (
        f"by time step: the gradient at the last of {len(norms)} steps is {last:.3g}, at the first {first:.3g}{ratio}"
    )


def plot(inspection: Inspection, path: Path) -> None:
    """The norm by parameter before and after clipping and, of a recurrent model, by time step. Needs matplotlib.

    Raises UserError if it is not there, or if the file cannot be written.
    """
    pyplot = drawing()
    from runner.tracking.flow import AFTER, BEFORE

    names = list(inspection.parameters)
    panels = 2 if inspection.steps else 1
    figure, axes = pyplot.subplots(
        panels, 1, squeeze=False, figsize=(9, 1.6 + 0.25 * len(names) + 3 * (panels - 1)), layout="constrained",
        height_ratios=[1.2 + 0.25 * len(names), 3][:panels],
    )  # fmt: skip
    flow = axes[0][0]
    places = range(len(names), 0, -1)
    before = [each.gradient or float("nan") for each in inspection.parameters.values()]
    after = [inspection.after[name] or float("nan") for name in names]
    flow.hlines(places, after, before, color="#999999")
    flow.plot(before, places, "o", color=BEFORE, markerfacecolor="none", markersize=9, label="before clipping")
    flow.plot(after, places, "o", color=AFTER, markersize=4, label="after")
    labels = [f"{name} ({mark})" if (mark := inspection.marks.get(name)) else name for name in names]
    flow.set_yticks(list(places), labels)
    flow.set(xscale="log", xlabel="2-norm of the gradient", title=f"gradients by parameter, step {inspection.taken}")
    flow.legend(fontsize=8)
    flow.grid(axis="x", alpha=0.3)
    if inspection.steps:
        time = axes[1][0]
        time.plot(range(1, len(inspection.steps) + 1), inspection.steps, color=BEFORE)
        time.set(
            yscale="log", xlabel="time step", ylabel="2-norm", title="gradient of the last step's loss, by time step"
        )
        time.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot {path}: cannot be written ({error})") from None
    finally:
        pyplot.close(figure)


def check_plot(path: Path) -> None:
    """Raises UserError, before anything is computed, if the picture could not be written."""
    figure = drawing().figure()
    formats = figure.canvas.get_supported_filetypes()
    drawing().close(figure)
    if path.suffix[1:] not in formats:
        raise UserError(f"--plot {path}: its ending must be one of {', '.join(sorted(formats))}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot {path}: no such folder")


def drawing() -> Any:
    """matplotlib's pyplot, without a window; raises UserError if it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError('the pictures need matplotlib: pip install -c constraints.txt -e ".[docs]"') from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
