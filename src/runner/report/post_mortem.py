"""The post-mortem of a diverged run: what happened in its last steps, the cause, and what to run instead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from runner.printable import count_of, format_loss
from runner.report.settings import Settings
from runner.tracking import metrics, tags

FILE = "post_mortem.md"
SHOWN = 8  # steps in the table
LEADING = 3  # parameters that are named
JUMP = 6.0  # standard deviations above the mean of the earlier losses, as in the spike score
FEWEST = 5  # losses before a jump can be judged

UPDATE, CLIPPED_UPDATE = "the update is too large", "the update is too large although the gradients are clipped"
EXPLOSION = "the gradients exploded without clipping"
ABOVE_REACH = "the gradients exploded below the limit of clipping"
VANISHING = "the gradients vanish at the start"
JUMPED = "one batch made the loss jump"
INPUT = "non-finite input"
OVERFLOW = "overflow in half precision"
WEIGHTS = "the weights became non-finite first"


@dataclass(frozen=True)
class Step:
    """One step: its loss, the norms before and after clipping, the limit, the learning rate.

    limited: whether clipping changed anything. update, weight: the 2-norms of the change of the weights and of the
    weights, None where they are not known.
    """

    number: int
    loss: float
    before: float
    after: float
    limit: float
    limited: bool
    lr: float
    update: float | None = None
    weight: float | None = None


@dataclass
class Evidence:
    """What is known of the last steps of a diverged run.

    settings: those of clipping and of the optimizer. parameters: each one's norm before clipping, at the last step at
    which all are finite. nonfinite: the names of the parameters whose gradients were the first to be non-finite.
    vanishing: the share of the parameters whose gradients vanish at the run's first step. jump: the step at which the
    loss jumped, and the loss of the batch before it with the same weights. bad_input, bad_weights, overflow: the step
    at which the input, or before which a weight, was non-finite; the step whose gradients are non-finite at half
    precision only.
    """

    steps: list[Step]
    settings: Settings = field(default_factory=Settings)
    replayed: bool = False
    parameters: dict[str, float] = field(default_factory=dict)
    nonfinite: list[str] = field(default_factory=list)
    vanishing: float = 0.0
    jump: tuple[int, float] | None = None
    bad_input: int | None = None
    bad_weights: tuple[int, str] | None = None
    overflow: int | None = None

    @property
    def onset(self) -> int:
        """The index of the first step of the rise, from which on all losses exceed those since the lowest one."""
        losses = [step.loss if math.isfinite(step.loss) else math.inf for step in self.steps]
        lowest = losses.index(min(losses))
        highest = list(accumulate(losses[lowest:], max))  # until each step
        lowest_later = list(accumulate(reversed(losses[lowest:]), min))[::-1]  # from each step on
        rises = (lowest + index for index in range(1, len(highest)) if lowest_later[index] > highest[index - 1])
        return next(rises, len(losses) - 1)

    @property
    def rise(self) -> list[Step]:
        """The steps in which the loss rose, and the one before them."""
        return self.steps[max(self.onset - 1, 0) :]

    @property
    def usual_norm(self) -> float | None:
        """The 90th percentile of the norms before clipping until the loss rose; None if none is finite and positive."""
        norms = [step.before for step in self.steps[: max(self.onset, 1)] if 0 < step.before < math.inf]
        return float(np.quantile(norms, 0.9)) if norms else None


@dataclass(frozen=True)
class Cause:
    """A cause of divergence by its name, and the sentence with the numbers on which it rests."""

    name: str
    evidence: str


def find_cause(evidence: Evidence) -> Cause:
    """The cause that the evidence supports, the more specific ones first."""
    if not evidence.steps:
        return Cause(WEIGHTS, "No step was logged before.")
    for rule in (_bad_values, _jump, _vanishing):
        if (cause := rule(evidence)) is not None:
            return cause
    return _too_large(evidence)


def is_jump(loss: float, earlier: Sequence[float]) -> bool:
    """Whether a loss exceeds the mean of the earlier losses by more than 6 standard deviations."""
    finite = np.asarray([value for value in earlier if math.isfinite(value)], np.float64)
    return len(finite) >= FEWEST and not loss <= float(finite.mean() + JUMP * finite.std())


def _bad_values(evidence: Evidence) -> Cause | None:
    """A non-finite input, an overflow in half precision, or non-finite weights though no gradient was large."""
    last = evidence.steps[-1]
    if evidence.bad_input is not None:
        return Cause(INPUT, f"The input of step {evidence.bad_input} has a nan or infinite element.")
    if evidence.overflow is not None:
        return Cause(OVERFLOW, f"The gradients of step {evidence.overflow} are finite at float32.")
    if evidence.bad_weights is not None and _growth(evidence.rise) < 10:
        step, name = evidence.bad_weights
        return Cause(WEIGHTS, f"The weight {name} is non-finite before step {step}, and no gradient before was "
                     f"large: the largest norm was "
                     f"{max(_finite(evidence.steps), default=last.before):.3g}.")  # fmt: skip
    return None


def _jump(evidence: Evidence) -> Cause | None:
    if evidence.jump is None:
        return None
    step, other = evidence.jump
    index = next((index for index, each in enumerate(evidence.steps) if each.number == step), None)
    if index is None or index != evidence.onset:
        return None  # the loss had begun to rise before, or it fell again
    if is_jump(other, [each.loss for each in evidence.steps[:index]]):
        return None  # with these weights, the loss of other batches is high too
    return Cause(JUMPED, f"At step {step} (batch {step - 1} of the run, counted from 0) the loss is "
                 f"{format_loss(evidence.steps[index].loss)}; with the same weights that of the batch before is "
                 f"{format_loss(other)}.")  # fmt: skip


def _vanishing(evidence: Evidence) -> Cause | None:
    if evidence.vanishing < 0.5:
        return None
    first = evidence.steps[0]
    size = f" against weights of norm {first.weight:.3g}" if first.weight is not None else ""
    return Cause(VANISHING, f"At step {first.number} the gradients have a norm of {first.before:.3g}{size}; those of "
                 f"{100 * evidence.vanishing:.0f} % of the weights are too small to change them. Clipping cannot "
                 "enlarge them; another initialization, normalization or residual layers can.")  # fmt: skip


def _too_large(evidence: Evidence) -> Cause:
    """A large update, or an explosion that clipping did not reach."""
    rise = evidence.rise
    limited = sum(step.limited for step in rise)
    moved = _largest_move(rise)
    if evidence.settings.normalizes:
        name, optimizer = CLIPPED_UPDATE if limited else UPDATE, evidence.settings.optimizer["name"]
        return Cause(name, f"optimizer={optimizer} divides a gradient by its usual size, so that the learning rate of "
                     f"{rise[-1].lr:.3g} alone is the length of each weight's step.{moved}")  # fmt: skip
    if 2 * limited >= len(rise):
        step = max((step for step in rise if step.limited), key=lambda step: step.lr * step.after)
        return Cause(CLIPPED_UPDATE, f"Clipping limited {limited} of the last {count_of(len(rise), 'step')}; "
                     f"learning rate {step.lr:.3g} times norm {step.after:.3g} is {step.lr * step.after:.3g} a step."
                     f"{moved}")  # fmt: skip
    norms = _finite(rise)
    grown = (
        f"The norm grew from {norms[0]:.3g} to {max(norms):.3g} within {count_of(len(rise), 'step')}"
        if norms
        else "No norm of the last steps is finite"
    )
    limit = min((step.limit for step in rise if not math.isnan(step.limit)), default=math.inf)
    if math.isinf(limit):
        return Cause(EXPLOSION, f"{grown}.{moved}")
    return Cause(ABOVE_REACH, f"{grown}, and clipping limited {limited} of them: the limit was {limit:.3g}.{moved}")


def _largest_move(steps: Sequence[Step]) -> str:
    """A sentence on the step that moved the weights most, as a share of their norm; empty below 1 %."""
    ratios = [(step.update / step.weight, step) for step in steps if step.update is not None and step.weight]
    ratio, step = max(ratios, key=lambda pair: pair[0], default=(0.0, None))
    if step is None or not ratio >= 0.01:
        return ""
    share = f"{ratio:.3g} times" if ratio >= 1 else f"{100 * ratio:.2g} % of"
    return f" Step {step.number} moved the weights by {step.update:.3g}, {share} their norm of {step.weight:.3g}."


def _growth(steps: Sequence[Step]) -> float:
    """How many times the first finite norm the largest one is."""
    norms = _finite(steps)
    return max(norms) / norms[0] if norms and norms[0] > 0 else 1.0


def _finite(steps: Sequence[Step]) -> list[float]:
    return [step.before for step in steps if math.isfinite(step.before)]


def from_log(folder: Path) -> list[Step]:
    """The logged steps of a run, from its metrics.jsonl."""
    logged = {tag: dict(points) for tag, points in metrics.read(folder).items()}
    losses: dict[int, float] = logged.get(tags.TRAIN_LOSS, {})

    def value(tag: str, step: int) -> float:
        return logged.get(tag, {}).get(step, math.nan)

    steps = []
    for number, loss in losses.items():
        weight, ratio = (logged.get(tag, {}).get(number) for tag in (tags.WEIGHT_NORM, tags.UPDATE_RATIO))
        steps.append(Step(
            number, loss, value(tags.NORM_BEFORE, number), value(tags.NORM_AFTER, number),
            value(tags.CLIP_LIMIT, number), value(tags.CLIP_FRACTION, number) > 0, value(tags.LR, number),
            None if weight is None or ratio is None else weight * ratio, weight,
        ))  # fmt: skip
    return steps


@dataclass(frozen=True)
class Advice:
    """A command, and what is known of it, such as its loss when it was tried."""

    command: str
    note: str


def markdown(
    reason: str, evidence: Evidence, cause: Cause, advice: Sequence[Advice], others: Sequence[str] = ()
) -> str:
    """The post-mortem as Markdown.

    reason: that of the divergence. advice: the most likely command first. others: a line for each worse setting.
    """
    origin = "replayed" if evidence.replayed else "as logged"
    lines = ["# Post-mortem", "", f"The run diverged: {reason}.", "",
             f"Cause: {cause.name}.", cause.evidence, ""]  # fmt: skip
    if advice:
        lines += ["What to run, the most likely to work first:", ""]
        for number, each in enumerate(advice, start=1):
            lines += [f"{number}. {each.note}", "", f"       {each.command}", ""]
    if others:
        lines += ["Also tried:", "", *(f"- {line}" for line in others), ""]
    lines += [f"The last steps, {origin}:", "", *_table(evidence.steps[-SHOWN:]), ""]
    if evidence.parameters:
        total = math.fsum(norm**2 for norm in evidence.parameters.values())
        leading = sorted(evidence.parameters.items(), key=lambda item: -item[1])[:LEADING]
        shares = (f"{name} {norm:.3g} ({100 * norm**2 / total:.0f} % of the square)" for name, norm in leading if total)
        lines += [f"The largest gradients of the last finite step: {', '.join(shares)}.", ""]
    if evidence.nonfinite:
        more = f" and {len(evidence.nonfinite) - LEADING} more" if len(evidence.nonfinite) > LEADING else ""
        lines += [f"The first non-finite gradients: {', '.join(evidence.nonfinite[:LEADING])}{more}.", ""]
    return "\n".join(lines).rstrip() + "\n"


HEAD = ("step", "loss", "norm before", "norm after", "limit", "lr", "update", "weights")


def _table(steps: Sequence[Step]) -> list[str]:
    rows: list[tuple[str, ...]] = [HEAD]
    for step in steps:
        numbers = (step.before, step.after, step.limit, step.lr, step.update, step.weight)
        cells = ("-" if number is None or math.isnan(number) else f"{number:.3g}" for number in numbers)
        rows.append((str(step.number), format_loss(step.loss), *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [f"| {' | '.join(f'{cell:>{width}}' for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return [lines[0], f"|{'|'.join('-' * (width + 1) + ':' for width in widths)}|", *lines[1:]]
