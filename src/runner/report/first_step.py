"""The learning rate or the threshold with which the first step of a diverged run would have been short."""

import math
from pathlib import Path

from runner.report.settings import Settings
from runner.tracking import metrics
from runner.tracking.tags import LR, UPDATE_RATIO, WEIGHT_NORM

SHORT = 0.01  # the longest step, as a share of the norm of all weights, that a diverged run is advised to take
ROUNDING = 1e-6  # of 1 - ratio², below which rounding alone can have made it: weights of 0 before the step
LEAST = 1e-5  # of 1 - ratio², below which the small part of the step along the weights determines it


def longest_update(run: Path, settings: Settings) -> tuple[float, float] | None:
    """The length of a short step, and that of the run's first step at its full learning rate; None if unknown.

    What is logged are the norm w of the weights after the step, and the ratio r of the update to it. Before the step
    the norm is about w · √|1 - r²|, since a gradient is nearly orthogonal to random weights. A step of more than 300
    times the weights counts as one of 300 times.
    """
    logged = metrics.read(run, (WEIGHT_NORM, UPDATE_RATIO, LR))
    weights, ratio, lr = (dict(logged.get(tag, [])).get(1, math.nan) for tag in (WEIGHT_NORM, UPDATE_RATIO, LR))
    change = abs(1 - ratio**2)
    if settings.lr is None or not (weights > 0 and ratio > 0 and lr > 0 and change > ROUNDING and weights < math.inf):
        return None
    return SHORT * weights * math.sqrt(max(change, LEAST)), ratio * weights * settings.lr / lr


def longest_threshold(run: Path, settings: Settings) -> float:
    """The threshold with which no step is longer than 1 % of the weights; infinity if it is unknown.

    It depends on the learning rate alone, so that it is unknown for an optimizer that divides the gradient by its size.
    """
    steps = longest_update(run, settings)
    if steps is None or settings.normalizes or not settings.lr:
        return math.inf
    return steps[0] * (1 - settings.momentum) / settings.lr


def lower_rate(run: Path, settings: Settings, failed: list[float]) -> float | None:
    """A learning rate for a run that diverged: a tenth of the lowest that failed, or less.

    It is less if the first step would otherwise be longer than 1 % of the weights. failed: the learning rates at
    which a run of the same sweep diverged. None if the configuration has no rate.
    """
    if not settings.lr:
        return None
    steps = longest_update(run, settings)
    short = math.inf if steps is None else settings.lr * steps[0] * (1 - settings.momentum) / steps[1]
    return min(short, *(rate / 10 for rate in (settings.lr, *failed)))
