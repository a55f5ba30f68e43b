"""What clipping did in a run, and how often its loss and its gradient norm jumped, from what the run logged."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runner.printable import count_of
from runner.report.limit import describe_limit
from runner.report.settings import Settings, read_settings, settings_of
from runner.tracking import metrics
from runner.tracking.tags import CLIP_COST, CLIP_FRACTION, CLIP_LIMIT, DROPPED, SPIKE_SCORES, STEPS_PER_SECOND

FEW_STEPS = 20  # with fewer, a fifth is less than four steps
FEW = 0.05  # up to this share of limited steps, clipping is a safety net
MOST = 0.5  # from this share on, it determines the step length
LISTED = 8  # steps that are named
WINDOW, DEVIATIONS = 128, 6.0  # of the spike score
ROWS = 4096  # windows whose bounds are computed at once, which bounds the memory


@dataclass(frozen=True)
class Findings:
    """What a run's logs show at its end.

    clipped: the share of limited steps and the verdict on it; None without clipping. limit: how the limit of an
    adaptive policy moved; None for other policies. scalars: the values that a run logs at its end, by tag: the spike
    scores, if a step is judged, and the cost of clipping, if it was inactive.
    """

    clipped: str | None = None
    limit: str | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """The spike scores by tag."""
        return {tag: value for tag, value in self.scalars.items() if tag in SPIKE_SCORES}

    @property
    def text(self) -> str | None:
        """What clipping did, as one text; None without clipping."""
        if self.clipped is None:
            return None
        return self.clipped + self.cost + (f"; limit: {self.limit}" if self.limit else "")

    @property
    def cost(self) -> str:
        """A clause on the time that clipping took; empty where it was not measured."""
        share = self.scalars.get(CLIP_COST)
        return "" if share is None else f"; clipping took {100 * share:.2g} % of a step's time"


def find(run: Path, config: Mapping[str, Any] | None = None, clip_seconds: float | None = None) -> Findings:
    """The findings from the metrics.jsonl in a run's folder.

    config: the run's configuration as nested plain data; None: its config.yaml. clip_seconds: how long clipping takes
    at a step; None: not known, or logged already.
    """
    logged = metrics.read(
        run, (CLIP_FRACTION, CLIP_LIMIT, CLIP_COST, DROPPED, STEPS_PER_SECOND, *SPIKE_SCORES.values())
    )
    cost = logged[CLIP_COST][-1][1] if CLIP_COST in logged else None
    if clip_seconds is not None and STEPS_PER_SECOND in logged:
        cost = clip_seconds * logged[STEPS_PER_SECOND][-1][1]
    settings = read_settings(run) if config is None else settings_of(config)
    clipped, limit, fractions = None, None, logged.get(CLIP_FRACTION)
    if fractions and settings.kind != "measure":
        steps, shares = zip(*fractions, strict=True)
        dropped = int(logged[DROPPED][-1][1]) if DROPPED in logged else 0
        if dropped == steps[-1]:
            clipped = "no verdict: every step was dropped"
        else:
            limited = np.mean([share > 0 for share in shares])
            clipped = f"{100 * limited:.1f} % of the logged steps; {verdict(steps, shares, settings, dropped)}"
            limit = describe_limit(logged.get(CLIP_LIMIT, []), settings)
    series = {score: [value for _, value in logged.get(tag, [])] for score, tag in SPIKE_SCORES.items()}
    scalars = {tag: spike_score(each) for tag, each in series.items() if len(each) > WINDOW}
    return Findings(clipped, limit, scalars if cost is None else scalars | {CLIP_COST: cost})


def of_run(folder: Path) -> str | None:
    """What clipping did in the run in a folder; None without clipping, and for a run without a logged step."""
    return find(folder).text


def verdict(
    steps: Sequence[int], fractions: Sequence[float], settings: Settings | None = None, dropped: int = 0
) -> str:
    """What clipping did over the logged steps, if they are enough.

    fractions: the share of blocks that was limited at each step. The last fifth of the steps counts for itself, since
    a threshold that binds at the start only is another finding than one that binds to the end. settings: what the
    explanation depends on. dropped: how many steps were dropped, logged or not.
    """
    settings = settings or Settings()
    limited = np.asarray(fractions, np.float64) > 0
    share, last = float(limited.mean()), float(limited[-max(len(limited) // 5, 1) :].mean())
    if settings.kind == "rescale":
        return f"step limiter: clip={settings.policy} scales every gradient, whatever its norm{_explanation(settings)}"
    if len(limited) < FEW_STEPS:
        return f"too few for a verdict: {count_of(len(limited), 'logged step')}"
    drops = settings.kind == "decision"
    if not limited.any():
        changed = f"; {dropped} were dropped" if dropped else ", and clipping changed nothing"
        return f"inactive: no logged step was {'dropped' if drops else 'limited'}{changed}"
    if share <= FEW:
        found = [step for step, each in zip(steps, limited, strict=True) if each]
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        return f"safety net: at step {', '.join(map(str, found[:LISTED]))}{more}"
    recent = f"{100 * last:.0f} % of the last fifth"
    if share < MOST or last < MOST:
        return f"partly, {recent}"
    if drops:
        return f"most steps are dropped, {recent}: the weights change at the other steps only"
    return f"step limiter, {recent}{_explanation(settings)}"


def _explanation(settings: Settings) -> str:
    """What a step limiter means for the run's optimizer, after a colon; empty if the policy has no one limit."""
    if settings.kind == "composite":
        return ""
    limit = "limit" if settings.sets_own_limit or not settings.clip else "clip.max"
    if settings.normalizes:
        return (
            f": {settings.optimizer['name']} divides the gradient by its own size, so that another {limit} hardly "
            "changes the length of a step; optimizer.lr does"
        )
    adam = "" if settings.optimizer else "; Adam divides the limit out again"
    optimizer = settings.optimizer.get("name", "SGD")
    part = f"a step of {optimizer}" + (f" in each limited {settings.scope}" if settings.scope != "model" else "")
    most = f" (with momentum up to {1 / (1 - settings.momentum):.3g} times that)" if 0 < settings.momentum < 1 else ""
    most += ", apart from weight decay" if settings.optimizer.get("weight_decay") else ""
    return f": the length of {part} is learning rate x {limit}{most}, so that changing one changes the other{adam}"


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
