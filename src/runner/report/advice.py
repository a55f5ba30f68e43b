"""Thresholds suggested from the gradient norms of one run: for shares of clipped steps, and by published rules."""

import difflib
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from runner.errors import UserError
from runner.report.aggregate import POLICY, THRESHOLD
from runner.report.trials import SEED, read_trials
from runner.runs.run import CONFIG_FILE, check_run
from runner.runs.status import read_status
from runner.sweeps.results import columns, read_plan, shell_path
from runner.tracking import metrics
from runner.tracking.metrics import METRICS_FILE, StepValues
from runner.tracking.tags import CLIP_FRACTION, NORM_BEFORE

SHARES = (0.10, 0.05, 0.01, 0.25)  # of clipped steps; the first is the advice, see evidence/docs/advice.md
FEW_STEPS = 100  # with fewer steps, a share of 1 % is less than one step
Norms = NDArray[np.float64]


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


def advice(norms: Norms, status: dict[str, Any], failed: Sequence[float] = ()) -> Suggestion:
    """The suggestion to begin with: 10 % of the steps clipped; after a divergence the 10th percentile.

    failed: thresholds at which a run diverged. The suggestion is below all of them.
    """
    candidates = suggestions(norms)
    best = candidates[-1] if status.get("state") == "diverged" else candidates[0]
    if failed and best.threshold >= min(failed):
        limit = min(failed) / 10
        best = Suggestion(limit, f"a tenth of {min(failed):.3g}, which diverged", float((norms > limit).mean()))
    return best


def failed_thresholds(run: Path) -> dict[float, Path]:
    """The thresholds of clip=norm at which this run, or another job of its sweep, diverged, each with that run.

    Only jobs that differ from this run in the threshold, the seed and the policy count.
    """
    if not (run / CONFIG_FILE).is_file():
        return {}
    trials = read_trials(run.parent if read_plan(run.parent) else run)
    others = [{key: value for key, value in trial.values.items() if not _may_differ(key)} for trial in trials]
    own = next((each for each, trial in zip(others, trials, strict=True) if trial.result.folder.name == run.name), None)
    return {
        float(trial.values[THRESHOLD]): trial.result.folder
        for each, trial in zip(others, trials, strict=True)
        if each == own and trial.values.get(POLICY) == "norm" and trial.result.state == "diverged"
    }


def _may_differ(key: str) -> bool:
    return key == SEED or key.startswith("clip.")


def command(run: Path, clipping: str) -> str:
    """The command that repeats a run with other overrides for its clipping, separated by spaces."""
    path = run / ".hydra" / "overrides.yaml"
    lines = [str(line) for line in yaml.safe_load(path.read_text(encoding="utf-8")) or []] if path.is_file() else []
    kept = [line for line in lines if not re.match(r"[+~]*(clip[.=@]|resume=|sweep\.)", line)]
    return shlex.join(["python", "train.py", *kept, *clipping.split()])


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
    if status.get("state") == "diverged":
        lines.append(
            f"the run diverged at step {status['step']}, and most of its norms are those of the divergence: start a "
            "run with the advice, which is their 10th percentile, and use the norms of that run"
        )
    if len(norms) < FEW_STEPS:
        lines.append(f"{len(norms)} norms are few: with {FEW_STEPS} or more, rare spikes are among them")
    elif medians := drift(norms):
        early, late = medians
        lines.append(
            f"the norms drift, from a median of {early:.3g} to one of {late:.3g}, and no fixed limit fits them all; "
            "clip=autoclip, clip=zclip and clip=quantile follow them"
        )
    return lines


def drift(norms: Norms) -> tuple[float, float] | None:
    """The medians of early and late norms if they differ; None otherwise.

    They differ if the late median lies outside the middle 80 % of the early norms. Early is from 10 % to 40 % of the
    steps, so that warm-up does not count; late is the last 30 %.
    """
    early, late = norms[len(norms) // 10 : len(norms) * 4 // 10], norms[len(norms) * 7 // 10 :]
    low, high = np.quantile(early, [0.1, 0.9])
    median = float(np.median(late))
    return None if low <= median <= high else (float(np.median(early)), median)


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
        scalars = _read_event_files(folder)
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
    return f"did you mean --tag {shlex.quote(similar[0])}?" if similar else f"its scalars are {', '.join(tags[:8])}"


def _read_event_files(folder: Path) -> dict[str, StepValues]:
    """The scalars in the event files of another program by tag, in either of TensorBoard's formats for scalars."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        arrays = [(event.step, make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        if all(array.size == 1 and array.dtype.kind in "fiu" for _, array in arrays):
            scalars[tag] = [(step, float(array.item())) for step, array in arrays]
    return scalars


def advise(run: Path, tag: str = NORM_BEFORE) -> str:
    """The text of scripts/suggest_max.py: a table of thresholds with their overrides, warnings, and the advice."""
    points, status = read_norms(run, tag), read_status(run)
    norms: Norms = np.array([value for _, value in points])
    rows = [("threshold", "steps above it", "source", "override")]
    rows += [(f"{suggestion.threshold:.3g}", f"{100 * suggestion.share:.1f} %", suggestion.source, suggestion.override)
             for suggestion in sorted(suggestions(norms), key=lambda each: each.threshold)]  # fmt: skip
    statistics = f"median {np.median(norms):.4g}, mean {norms.mean():.4g}, largest {norms.max():.4g}"
    state = f", which {status['state']}" if status.get("state") in ("finished", "diverged") else ""
    origin = f"steps {points[0][0]} to {points[-1][0]} of {shell_path(run.absolute())}{state}"
    heading = f"{len(norms)} norms of {tag}, from {origin}: {statistics}"
    fractions = [value for _, value in metrics.read(run, [CLIP_FRACTION]).get(CLIP_FRACTION, [])] if status else []
    clipped = sum(value > 0 for value in fractions) / max(len(fractions), 1)
    notes = [f"warning: {line}" for line in warnings(norms, status, clipped)]
    failed = failed_thresholds(run)
    notes += [f"warning: {shell_path(folder)} diverged at clip.max={threshold:g}; the advice is below that"
              for threshold, folder in sorted(failed.items())[:1]]  # fmt: skip
    best = advice(norms, status, list(failed))
    lines = [f"advice: {command(run, best.override)}  # {best.source}"]
    if drift(norms):
        lines.append(f"or:     {command(run, 'clip=autoclip')}  # a limit that follows the norms")
    return "\n".join([heading, "", *columns(rows), "", *notes, *lines])
