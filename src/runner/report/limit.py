"""How far the limit of an adaptive policy moved in a run, and whether it was still changing at the end."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runner.report.settings import Settings
from runner.tracking.metrics import StepValues

FEW_LIMITS = 50  # with fewer, a fifth has less than ten
LEAST_CHANGE = 0.1  # relative
Limits = NDArray[np.float64]


def describe_limit(limits: StepValues, settings: Settings) -> str | None:
    """How the limit moved after the warm-up; None for a policy that does not set its own limit.

    limits: the steps and values of clip/limit, which is the median of the blocks. The steps at which a policy sets no
    limit, or one above its cap `clip.max`, do not count. The warm-up is `clip.warmup` steps; in a policy without that
    key, the steps before the first finite limit.
    """
    if not settings.sets_own_limit or not limits:
        return None
    first = next((step for step, limit in limits if math.isfinite(limit)), limits[-1][0] + 1)
    own_warmup = settings.clip.get("warmup")
    warmup = first - limits[0][0] if own_warmup is None else int(own_warmup)
    if limits[-1][0] <= warmup:
        return f"not adapted yet: the warm-up of {warmup} steps was not over at step {limits[-1][0]}"
    values = np.array([limit for step, limit in limits if step > warmup], np.float64)
    own = values[np.isfinite(values) & (values < _cap(settings))]
    after = f"after a warm-up of {warmup} steps, " if warmup else ""
    none = "the policy set no limit" + (" below its cap clip.max" if _cap(settings) < math.inf else "")
    if not own.size:
        return f"{after}{none} at any logged step"
    rest = 100 * (1 - len(own) / len(values))
    parts = [
        f"{after}it moved from {own[0]:.3g} to {own[-1]:.3g}, between {own.min():.3g} and {own.max():.3g}",
        *([f"at {rest:.3g} % of the steps {none}"] if rest else []),
        _end(own),
    ]
    return "; ".join(parts)


def _cap(settings: Settings) -> float:
    """The smallest limit that counts as the cap. A scheduled cap counts as none: its values are not logged."""
    cap = settings.clip.get("max")
    scheduled = settings.clip.get("schedule", "constant") != "constant"
    return math.inf if cap is None or scheduled else float(cap) * (1 - 1e-6)  # limits are logged in float32


def _end(limits: Limits) -> str:
    if len(limits) < FEW_LIMITS:
        return f"{len(limits)} limits are too few to say whether it still changed at the end"
    return "still changing at the end" if still_changing(limits) else "steady at the end"


def still_changing(limits: Sequence[float] | Limits) -> bool:
    """Whether limits changed to the end: the median of the last fifth differs from that of the fifth before it.

    It differs if it lies outside the middle 80 % of that fifth, and its relative difference from that median exceeds
    10 %: the first condition excludes noise, and the second one a change that has no effect.
    """
    array = np.asarray(limits, np.float64)
    fifth = max(len(array) // 5, 1)
    before, last = array[-2 * fifth : -fifth], float(np.median(array[-fifth:]))
    low, median, high = np.quantile(before, [0.1, 0.5, 0.9])
    return bool(not low <= last <= high and abs(last - median) > LEAST_CHANGE * abs(median))
