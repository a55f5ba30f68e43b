"""Thresholds suggested from the gradient norms of one run: for shares of clipped steps, and by published rules."""

import difflib
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.errors import UserError
from runner.printable import count_of
from runner.report.cautions import Norms, drift, not_learned, warnings
from runner.report.commands import repeat_command
from runner.report.event_files import read_scalars
from runner.report.failures import failed_rates, failed_thresholds, safe_below
from runner.report.first_step import longest_threshold, lower_rate
from runner.report.fit import misfit, resets
from runner.report.rows import RATE
from runner.report.settings import Settings, read_settings
from runner.runs.run import CONFIG_FILE, check_run
from runner.runs.status import read_status
from runner.sweeps.results import columns, shell_path
from runner.tracking import metrics
from runner.tracking.metrics import METRICS_FILE, StepValues
from runner.tracking.tags import CLIP_FRACTION, NORM_BEFORE

SHARES = (0.10, 0.05, 0.01, 0.25)  # of clipped steps; the first is the advice, see evidence/docs/advice.md
ClipOf = Callable[[Sequence[str]], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Suggestion:
    """A threshold, its source, and the share of the run's steps whose norm exceeds it."""

    threshold: float
    source: str
    share: float

    @property
    def override(self) -> str:
        """The overrides that select the threshold."""
        return f"clip=norm clip.max={self.threshold:.3g}"


def suggestions(norms: Norms) -> list[Suggestion]:
    """Thresholds from finite norms before clipping, [steps]; the first is the advice.

    Pascanu, Mikolov, Bengio 2013, section 3.2: "values from half to ten times this average" norm work.
    Seetharaman et al. 2020: AutoClip's limit, the 10th percentile of all norms so far.
    """
    mean = float(norms.mean())
    thresholds = [
        *((float(np.quantile(norms, 1 - share)), f"clips {100 * share:g} % of the steps") for share in SHARES),
        (0.5 * mean, "half the mean (Pascanu 2013)"),
        (10 * mean, "ten times the mean (Pascanu 2013)"),
        (float(np.quantile(norms, 0.1)), "10th percentile (AutoClip 2020; clip=autoclip adapts it)"),
    ]
    return [Suggestion(limit, source, float((norms > limit).mean())) for limit, source in thresholds]


def advice(
    norms: Norms,
    status: dict[str, Any],
    failed: Sequence[float] = (),
    *,
    momentum: float = 0.0,
    longest: float = math.inf,
) -> Suggestion:
    """The suggestion to begin with: 10 % of the steps clipped, or after a divergence a threshold that stops it.

    After a divergence the norms may be those of the divergence, and the smallest of three thresholds is taken: their
    10th percentile, the norm of the first step, which the divergence had not changed, and `longest`. momentum: the
    optimizer's, with which a step is up to 1 / (1 - momentum) times as long. longest: the threshold with which no step
    is longer than 1 % of the weights. failed: thresholds at which a run diverged; the suggestion is far below them.
    """
    candidates = suggestions(norms)
    best = candidates[0]
    if status.get("state") == "diverged":
        first = "the norm of the first step" + (" x (1 - momentum)" if momentum else "")
        limits = [(float(norms[0]) * (1 - momentum), first), (longest, "no step is longer than 1 % of the weights")]
        best = min(candidates[-1], *(_suggestion(norms, *each) for each in limits), key=lambda each: each.threshold)
    if best.threshold > safe_below(failed):
        best = _suggestion(norms, min(failed) / 10, f"a tenth of {min(failed):.3g}, which diverged")
    return best


def _suggestion(norms: Norms, limit: float, source: str) -> Suggestion:
    return Suggestion(limit, source, float((norms > limit).mean()))


def advice_for(run: Path, tag: str = NORM_BEFORE) -> Suggestion:
    """The suggestion to begin with for a run's folder, or for that of an event file."""
    settings = read_settings(run)
    momentum = 0.0 if settings.normalizes else settings.momentum
    failed, longest = list(failed_thresholds(run)), longest_threshold(run, settings)
    return advice(norms_of(run, tag), read_status(run), failed, momentum=momentum, longest=longest)


def norms_of(run: Path, tag: str = NORM_BEFORE) -> Norms:
    """The finite, positive norms under a tag in a run's folder, or in the folder of an event file.

    Raises UserError if there are none.
    """
    return np.array([value for _, value in read_norms(run, tag)])


def read_norms(run: Path, tag: str = NORM_BEFORE) -> StepValues:
    """The steps with those norms, and the norms; raises UserError if there are none."""
    folder = run.parent if run.is_file() else run
    if (folder / METRICS_FILE).is_file():
        scalars = metrics.read(folder)
    elif list(folder.glob("*tfevents*")):
        scalars = read_scalars(folder)
    else:
        if any(folder.glob(f"*/{CONFIG_FILE}")):
            check_run(folder)
        raise UserError(f"{run}: has neither {METRICS_FILE} nor an event file of TensorBoard")
    if tag not in scalars:
        raise UserError(f"{run}: no scalar {tag!r}; {_tag_hint(tag, list(scalars))}")
    points = [(step, value) for step, value in scalars[tag] if math.isfinite(value) and value > 0]
    if not points:
        raise UserError(f"{run}: {tag} holds no finite number above 0")
    return points


def _tag_hint(tag: str, tags: list[str]) -> str:
    """The end of a message for a missing tag: the most similar tag, or some of those that exist."""
    similar = difflib.get_close_matches(tag, tags, 1, 0.4) or [name for name in tags if "norm" in name]
    if similar:
        return f"did you mean --tag {shlex.quote(similar[0])}?"
    return f"its scalars are {', '.join(tags[:8])}" if tags else "it has no scalars"


def advise(run: Path, tag: str = NORM_BEFORE, clip_of: ClipOf | None = None) -> str:
    """The text of scripts/suggest_max.py: a table of thresholds with their overrides, warnings, and the advice.

    clip_of: the values of `clip` in the configuration that overrides make, or None if the project does not accept them.
    """
    points, status, settings = read_norms(run, tag), read_status(run), read_settings(run)
    norms: Norms = np.array([value for _, value in points])
    failed, best = failed_thresholds(run), advice_for(run, tag)
    statistics = f"median {np.median(norms):.4g}, mean {norms.mean():.4g}, largest {norms.max():.4g}"
    state = f", which {status['state']}" if status.get("state") in ("finished", "diverged") else ""
    origin = f"steps {points[0][0]} to {points[-1][0]} of {shell_path(run.absolute())}{state}"
    heading = f"{count_of(len(norms), 'norm')} of {tag}, from {origin}: {statistics}"
    fractions = [value for _, value in metrics.read(run, [CLIP_FRACTION]).get(CLIP_FRACTION, [])] if status else []
    clipped = sum(value > 0 for value in fractions) / max(len(fractions), 1)
    diverged = status.get("state") == "diverged"
    safe = best.threshold if diverged else safe_below(list(failed))
    unsafe = "none: above the advice" if diverged else "none: near one that diverged"
    commands = _commands(run, norms, best, safe, clipped, clip_of)
    found = [*warnings(norms, status, clipped), not_learned(run, status), _failed(failed, best, commands[0])]
    notes = [f"warning: {line}" for line in found if line]
    found = [misfit(settings), _needs_rate(settings, status, clipped), _has_already(settings, best)]
    notes += [f"note: {line}" for line in found if line]
    return "\n".join([heading, "", *_table(norms, safe, unsafe), "", *notes, *commands])


def _failed(failed: dict[float, Path], best: Suggestion, command: str) -> str | None:
    """Names the lowest threshold that failed; says that the advice is below it, if the command has a threshold."""
    if not failed:
        return None
    threshold = min(failed)
    below = "; the advised threshold is below that" if best.override in command else ""
    return f"{shell_path(failed[threshold])} diverged at clip.max={threshold:g}{below}"


def _has_already(settings: Settings, best: Suggestion) -> str | None:
    """Says that the run has the advised threshold, so that the advice would repeat it."""
    limit = settings.clip.get("max")
    same = settings.policy == "norm" and limit is not None and f"{limit:.3g}" == f"{best.threshold:.3g}"
    return f"the run has the advised {best.override} already" if same and not resets(settings) else None


def _table(norms: Norms, safe: float, unsafe: str) -> list[str]:
    """The lines of the table of thresholds. Those above a safe one have the text `unsafe` in place of an override."""
    rows = [("threshold", "steps above it", "source", "override")]
    for each in sorted(suggestions(norms), key=lambda each: each.threshold):
        override = each.override if each.threshold <= safe else unsafe
        rows.append((f"{each.threshold:.3g}", f"{100 * each.share:.1f} %", each.source, override))
    return columns(rows)


def _needs_rate(settings: Settings, status: dict[str, Any], clipped: float) -> str | None:
    """Says that the learning rate, and not the threshold, determines the steps, where both could be meant."""
    if not settings.normalizes or (status.get("state") != "diverged" and clipped < 1):
        return None
    return (
        f"optimizer={settings.optimizer['name']} divides the gradient by its own size, so that a lower clip.max hardly "
        "shortens its steps; a lower optimizer.lr does"
    )


def _clipping(run: Path, best: Suggestion, settings: Settings, clip_of: ClipOf | None) -> list[str]:
    """The overrides for the advised threshold, and those that undo what an experiment sets of clip=norm besides.

    Without `clip_of`, all that the run's own clipping sets is undone, since clip=norm alone may keep it.
    """
    overrides, undone = best.override.split(), resets(settings)
    if undone and clip_of is not None:
        clip = clip_of(shlex.split(repeat_command(run, overrides))[2:])
        undone = undone if clip is None else resets(Settings(clip))
    return [*overrides, *undone]


def _commands(
    run: Path, norms: Norms, best: Suggestion, safe: float, clipped: float, clip_of: ClipOf | None
) -> list[str]:
    """The lines with commands, the advice first."""
    settings, diverged = read_settings(run), read_status(run).get("state") == "diverged"
    clipping = _clipping(run, best, settings, clip_of)
    lines = [f"{repeat_command(run, clipping)}  # {best.source}"]
    rate = lower_rate(run, settings, failed_rates(run)) if settings.normalizes else None
    if rate is not None and (diverged or clipped == 1):
        slower = [f"{RATE}={rate:.2g}"]
        shorter = repeat_command(run, slower)
        both = repeat_command(run, [*slower, *clipping])
        lines = (
            [f"{shorter}  # shorter steps", f"{both}  # with a threshold, too"]
            if diverged
            else [*lines, f"{shorter}  # if its steps are too long"]
        )
    if not diverged and drift(norms) and np.quantile(norms, 0.1) <= safe:
        lines.append(f"{repeat_command(run, ['clip=autoclip'])}  # a limit that follows the norms")
    return [f"advice: {lines[0]}", *(f"or:     {line}" for line in lines[1:])]
