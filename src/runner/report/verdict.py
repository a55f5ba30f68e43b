"""What clipping did in a run, and how often its loss and its gradient norm jumped, from what the run logged."""

import warnings
from collections.abc import Sequence

import numpy as np

FEW = 0.05  # up to this share of limited steps, clipping is a safety net
MOST = 0.5  # from this share on, it determines the step length
LISTED = 8  # steps that are named
WINDOW, DEVIATIONS = 128, 6.0  # of the spike score
ROWS = 4096  # windows whose bounds are computed at once, which bounds the memory


def verdict(steps: Sequence[int], fractions: Sequence[float]) -> str:
    """What clipping did over the logged steps.

    fractions: the share of blocks that was limited at each step. The last fifth of the steps counts for itself, since
    a threshold that binds at the start only is another finding than one that binds to the end.
    """
    limited = np.asarray(fractions, np.float64) > 0
    if not limited.any():
        return "inactive: no logged step was limited, and another threshold above the norms changes nothing"
    share, last = float(limited.mean()), float(limited[-max(len(limited) // 5, 1) :].mean())
    if share <= FEW:
        found = [step for step, each in zip(steps, limited, strict=True) if each]
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        return f"safety net: at step {', '.join(map(str, found[:LISTED]))}{more}"
    if share >= MOST and last >= MOST:
        return (
            f"step limiter, {100 * last:.0f} % of the last fifth: the threshold times the learning rate is the length "
            "of an SGD step, so that changing one changes the other; Adam divides the threshold out again"
        )
    return f"partly, {100 * last:.0f} % of the last fifth"


def spike_score(values: Sequence[float]) -> float:
    """The share of values that exceed the mean of the last 128 values before them by more than 6 standard deviations.

    Source: SpikeScore of OLMo-core. Values before the 128th are not judged; a non-finite value counts as a spike, and
    is left out of later means. Returns 0 if no value is judged.
    """
    array = np.asarray(values, np.float64)
    if len(array) <= WINDOW:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(np.where(np.isfinite(array), array, np.nan)[:-1], WINDOW)
    judged, bounds = array[WINDOW:], np.empty(len(windows))
    with warnings.catch_warnings(action="ignore"):  # numpy warns of a window without a finite value
        for start in range(0, len(windows), ROWS):
            part = windows[start : start + ROWS]
            bounds[start : start + ROWS] = np.nanmean(part, 1) + DEVIATIONS * np.nanstd(part, 1)
    return float((~np.isfinite(judged) | (judged > bounds)).mean())
