"""Reasons not to rely on the gradient norms of a run for a threshold."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.printable import format_loss
from runner.tracking import metrics
from runner.tracking.tags import TRAIN_LOSS

FEW_STEPS = 100  # with fewer steps, a share of 1 % is less than one step
LAST = 10  # logged losses whose mean is the loss at the end
Norms = NDArray[np.float64]


def warnings(norms: Norms, status: dict[str, Any], clipped: float = 0.0) -> list[str]:
    """Reasons not to rely on these norms, or on any fixed threshold.

    status: the run's status.json, or empty. clipped: the share of its logged steps that were clipped.
    """
    lines = []
    if clipped:
        lines.append(
            f"{100 * clipped:.0f} % of the logged steps were clipped: what the norms would be without clipping cannot "
            "be known from them, since the weights would have moved elsewhere"
        )
    diverged = status.get("state") == "diverged"
    if diverged:
        lines.append(
            f"the run diverged at step {status['step']}, and its norms are not those of a run that learns: start a run "
            "with the advice, and use the norms of that run"
        )
    if len(norms) < FEW_STEPS:
        are = "norm is" if len(norms) == 1 else "norms are"
        lines.append(f"{len(norms)} {are} few: with {FEW_STEPS} or more, rare spikes are among them")
    if not diverged and (medians := drift(norms)):
        early, late = medians
        lines.append(
            f"the norms drift, from a median of {early:.3g} to one of {late:.3g}, and no fixed limit fits them all; "
            "clip=autoclip, clip=zclip and clip=quantile follow them"
        )
    return lines


def drift(norms: Norms) -> tuple[float, float] | None:
    """The medians of early and late norms if they differ; None otherwise, and for fewer than FEW_STEPS norms.

    They differ if the late median lies outside the middle 80 % of the early norms. Early is from 10 % to 40 % of the
    steps, so that warm-up does not count; late is the last 30 %.
    """
    if len(norms) < FEW_STEPS:
        return None
    early, late = norms[len(norms) // 10 : len(norms) * 4 // 10], norms[len(norms) * 7 // 10 :]
    low, high = np.quantile(early, [0.1, 0.9])
    median = float(np.median(late))
    return None if low <= median <= high else (float(np.median(early)), median)


def not_learned(run: Path, status: dict[str, Any]) -> str | None:
    """Says that a finished run did not learn: its loss is not lower at the end than at the first logged step."""
    losses = [value for _, value in metrics.read(run, [TRAIN_LOSS]).get(TRAIN_LOSS, [])] if status else []
    if status.get("state") != "finished" or len(losses) < 2:
        return None
    last = losses[1:][-LAST:]
    mean = sum(last) / len(last)
    if mean < losses[0]:
        return None
    return (
        f"the run did not learn: its loss was {format_loss(losses[0])} first, and {format_loss(mean)} on average over "
        f"the last {len(last)} logged steps"
    )
