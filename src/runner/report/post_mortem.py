"""The cause of a divergence, found from what is known of a run's last steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from runner.printable import count_of, format_loss
from runner.report.settings import Settings
from runner.tracking import metrics, tags

JUMP = 6.0  # standard deviations above the mean of the earlier losses, as in the spike score
FEWEST = 5  # losses before a jump can be judged
LARGE = 1.0  # a step that is as long as the weights is too large
EXPLODED = 10.0  # a gradient of so many times the weights, as in the default of diagnosis.explode
GREW = 3.0  # times, from which a norm counts as grown

UPDATE, CLIPPED_UPDATE = "the update is too large", "the update is too large although the gradients are clipped"
EXPLOSION = "the gradients exploded without clipping"
ABOVE_REACH = "the gradients exploded below the limit of clipping"
VANISHING = "the gradients vanish at the start"
JUMPED = "one batch made the loss jump"
INPUT = "non-finite input"
OVERFLOW = "overflow in half precision"
WEIGHTS = "the weights became non-finite first"
AT_START = "the gradients are non-finite before the first update"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Step:
    """One step: its loss, the norms before and after clipping, the limit, the learning rate.

    limited: whether clipping changed anything. update, weight: the 2-norms of the change of the weights, and of the
    weights before it, None where they are not known.
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

    @property
    def move(self) -> float:
        """The update's length as a share of that of the weights; 0 where it is not known."""
        return self.update / self.weight if self.update is not None and self.weight else 0.0


@dataclass
class Evidence:
    """What is known of the last steps of a diverged run.

    settings: those of clipping and of the optimizer. replayed: whether the steps were repeated; otherwise they are
    those that were logged. parameters: by step, each parameter's norm before clipping. nonfinite: the names of the
    parameters whose gradients were the first to be non-finite. vanishing: the share of the parameters whose gradients
    vanish at the run's first step. jump: the step at which the loss jumped, and the loss of the batch before it with
    the same weights. bad_input, bad_weights, overflow: the step at which the input, or before which a weight, was
    non-finite; the step whose gradients are non-finite at half precision only.
    """

    steps: list[Step]
    settings: Settings = field(default_factory=Settings)
    replayed: bool = False
    parameters: dict[int, dict[str, float]] = field(default_factory=dict)
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
    def peak(self) -> Step | None:
        """The step of the rise with the largest finite norm; None without any."""
        return max(
            (step for step in self.rise if math.isfinite(step.before)), key=lambda step: step.before, default=None
        )

    @property
    def usual_norm(self) -> float | None:
        """The 90th percentile of the norms before clipping until the loss rose; None if none is finite and positive."""
        norms = [step.before for step in self.steps[: max(self.onset, 1)] if 0 < step.before < math.inf]
        return float(np.quantile(norms, 0.9)) if norms else None


@dataclass(frozen=True)
class Cause:
    """A cause of divergence by its name, and the sentences with the numbers on which it rests."""

    name: str
    evidence: str


def find_cause(evidence: Evidence) -> Cause:
    """The cause that the evidence supports, the more specific ones first."""
    if not evidence.steps:
        return Cause(UNKNOWN, "No step was logged before.")
    for rule in (_bad_values, _jump, _large_update, _vanishing, _explosion):
        if (cause := rule(evidence)) is not None:
            return cause
    return Cause(UNKNOWN, f"The loss became {format_loss(evidence.steps[-1].loss)}, and neither a gradient nor an "
                 "update before it was unusually large.")  # fmt: skip


def is_jump(loss: float, earlier: Sequence[float]) -> bool:
    """Whether a loss exceeds the mean of the earlier losses by more than 6 standard deviations."""
    finite = np.asarray([value for value in earlier if math.isfinite(value)], np.float64)
    return len(finite) >= FEWEST and not loss <= float(finite.mean() + JUMP * finite.std())


def _bad_values(evidence: Evidence) -> Cause | None:
    """A non-finite input or start, an overflow in half precision, or non-finite weights without a large gradient."""
    if evidence.bad_input is not None:
        return Cause(INPUT, f"The input of step {evidence.bad_input} has a nan or infinite element.")
    if evidence.overflow is not None:
        return Cause(OVERFLOW, f"The gradients of step {evidence.overflow} are finite at float32.")
    norms = _finite(evidence.rise)
    if evidence.bad_weights is not None and (not norms or max(norms) < EXPLODED * norms[0]):
        step, name = evidence.bad_weights
        before = f"; the largest norm before that was {max(norms):.3g}" if norms else ""
        return Cause(WEIGHTS, f"The weight {name} is non-finite before step {step}{before}.")
    first = evidence.steps[0]
    if first.number == 1 and evidence.nonfinite and not math.isfinite(first.before):
        return Cause(AT_START, "No learning rate and no threshold can change that; another initialization, or inputs "
                     "of another scale, can.")  # fmt: skip
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


def _large_update(evidence: Evidence) -> Cause | None:
    """Steps that are too long: clipped ones, normalized ones, or such as move the weights far by a usual gradient."""
    rise = evidence.rise
    limited = sum(step.limited for step in rise)
    moved = _largest_move(rise)
    if evidence.settings.normalizes:
        if evidence.vanishing >= 0.5 and max(step.move for step in rise) < LARGE:
            return None
        name, optimizer = CLIPPED_UPDATE if limited else UPDATE, evidence.settings.optimizer["name"]
        return Cause(name, f"optimizer={optimizer} divides a gradient by its usual size, so that clipping hardly "
                     f"shortens its steps; the learning rate was {rise[-1].lr:.3g}.{moved}")  # fmt: skip
    if 2 * limited >= len(rise):
        step = max((step for step in rise if step.limited), key=lambda step: step.lr * step.after)
        return Cause(CLIPPED_UPDATE, f"Clipping limited {limited} of the last {count_of(len(rise), 'step')}; "
                     f"learning rate {step.lr:.3g} times norm {step.after:.3g} is {step.lr * step.after:.3g} a step."
                     f"{moved}")  # fmt: skip
    first = rise[0]
    if first.move >= LARGE and first.weight and first.before < EXPLODED * first.weight:
        return Cause(UPDATE, f"The gradient of step {first.number} is not large, {first.before:.3g} at weights of norm "
                     f"{first.weight:.3g}, but its step is: the learning rate was {first.lr:.3g}.{moved}")  # fmt: skip
    return None


def _vanishing(evidence: Evidence) -> Cause | None:
    if evidence.vanishing < 0.5:
        return None
    first, settings = evidence.steps[0], evidence.settings
    size = f" against weights of norm {first.weight:.3g}" if first.weight is not None else ""
    divided = f" optimizer={settings.optimizer['name']} divides them by their own size." if settings.normalizes else ""
    return Cause(VANISHING, f"At step {first.number} the gradients have a norm of {first.before:.3g}{size}; those of "
                 f"{100 * evidence.vanishing:.0f} % of the weights are too small to change them. Clipping cannot "
                 f"enlarge them; another initialization, normalization or residual layers can.{divided}"
                 f"{_largest_move(evidence.rise)}")  # fmt: skip


def _explosion(evidence: Evidence) -> Cause | None:
    """Gradients that grew, or were far larger than the weights from the start, while clipping did not limit them."""
    rise, peak, settings = evidence.rise, evidence.peak, evidence.settings
    if peak is None:
        return None
    first = next(step for step in rise if math.isfinite(step.before))
    if peak.before < GREW * first.before and not (first.weight and first.before > EXPLODED * first.weight):
        return None
    grown = f"The norm grew from {first.before:.3g} at step {first.number} to {peak.before:.3g} at step {peak.number}"
    if peak is first:
        times = f"{first.before / (first.weight or 1):.3g} times that of the weights"
        grown = f"The norm at step {first.number} is {first.before:.3g}, {times}"
    moved = _largest_move(rise)
    if settings.kind == "measure":
        return Cause(EXPLOSION, f"{grown}.{moved}")
    limits = [step.limit for step in rise if not math.isnan(step.limit)]
    limit = f"the limit was {min(limits):.3g}, and " if limits else ""
    return Cause(ABOVE_REACH, f"{grown}; {limit}clipping limited {sum(step.limited for step in rise)} of the last "
                 f"{count_of(len(rise), 'step')}.{moved}")  # fmt: skip


def _largest_move(steps: Sequence[Step]) -> str:
    """A sentence on the step that moved the weights most, as a share of their norm; empty below 1 %."""
    step = max(steps, key=lambda step: step.move)
    if not step.move >= 0.01 or step.update is None or step.weight is None:
        return ""
    share = f"{step.move:.3g} times" if step.move >= 1 else f"{100 * step.move:.2g} % of"
    return f" Step {step.number} moved the weights by {step.update:.3g}, {share} their norm of {step.weight:.3g}."


def _finite(steps: Sequence[Step]) -> list[float]:
    return [step.before for step in steps if math.isfinite(step.before)]


def from_log(folder: Path, settings: Settings) -> Evidence:
    """What the metrics.jsonl of a run shows of its steps. The norm of the weights before a step is not logged."""
    logged = {tag: dict(points) for tag, points in metrics.read(folder).items()}

    def value(tag: str, step: int) -> float:
        return logged.get(tag, {}).get(step, math.nan)

    steps = [
        Step(
            number, loss, value(tags.NORM_BEFORE, number), value(tags.NORM_AFTER, number),
            value(tags.CLIP_LIMIT, number), value(tags.CLIP_FRACTION, number) > 0, value(tags.LR, number),
        )
        for number, loss in logged.get(tags.TRAIN_LOSS, {}).items()
    ]  # fmt: skip
    evidence = Evidence(steps, settings)
    for tag, points in logged.items():
        if tag.startswith(tags.PARAMETER_BEFORE):
            for number, norm in points.items():
                evidence.parameters.setdefault(number, {})[tag.removeprefix(tags.PARAMETER_BEFORE)] = norm
    return evidence
