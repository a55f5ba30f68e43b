"""Thresholds from the norms of one run: for the usual shares of clipped steps, and by published rules."""

import difflib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import UserError
from runner.report.aggregate import override_value
from runner.runs.status import read_status
from runner.sweeps.results import columns
from runner.tracking import metrics
from runner.tracking.metrics import METRICS, Points
from runner.tracking.tags import BEFORE

SHARES = (0.10, 0.05, 0.01, 0.25)  # the first is the advice: see evidence/docs/advice.md
SHORT = 100  # steps below which a share of 1 % is less than one step
Norms = NDArray[np.float64]


@dataclass(frozen=True)
class Suggestion:
    """A threshold, where it comes from, and the share of the run's steps that exceed it."""

    threshold: float
    source: str
    share: float

    @property
    def override(self) -> str:
        return f"clip=norm clip.max={self.threshold:.3g}"


def suggestions(norms: Norms) -> list[Suggestion]:
    """From finite norms before clipping, [steps]; the first is the advice.

    Pascanu, Mikolov, Bengio 2013, section 3.2: "values from half to ten times this average" norm work.
    Seetharaman et al. 2020: AutoClip's limit, the 10th percentile of all norms so far.
    """
    found = [(float(np.quantile(norms, 1 - share)), f"clips {100 * share:g} % of the steps") for share in SHARES]
    mean = float(norms.mean())
    found += [
        (factor * mean, f"{words} the mean (Pascanu 2013)") for factor, words in ((0.5, "half"), (10, "ten times"))
    ]
    found.append((float(np.quantile(norms, 0.1)), "10th percentile (AutoClip 2020; clip=autoclip moves it)"))
    return [Suggestion(limit, source, float((norms > limit).mean())) for limit, source in found]


def advice(norms: Norms, status: dict[str, Any]) -> Suggestion:
    """The one to begin with: 10 % of the steps clipped; after a divergence the 10th percentile."""
    found = suggestions(norms)
    return found[-1] if status.get("state") == "diverged" else found[0]


def warnings(norms: Norms, status: dict[str, Any]) -> list[str]:
    """What speaks against trusting these norms, or against any fixed threshold. status: the run's, where known."""
    found = []
    if status.get("state") == "diverged":
        found.append(
            f"the run diverged at step {status['step']}, and most of its norms are those of the explosion: "
            "run with the advice, which is the 10th percentile of them, and ask again"
        )
    if len(norms) < SHORT:
        found.append(f"{len(norms)} norms are few: {SHORT} or more steps tell what is rare")
    elif drift := drifts(norms):
        early, late = drift
        found.append(
            f"the norms drift, from a median of {early:.3g} to one of {late:.3g}: a limit that follows them fits "
            "better, such as clip=autoclip, clip=zclip or clip=quantile"
        )
    return found


def drifts(norms: Norms) -> tuple[float, float] | None:
    """The medians early and late, if late norms are not what early ones were; the first tenth is left to warm-up.

    They are not if the late median lies outside the middle 80 % of the early norms.
    """
    early, late = norms[len(norms) // 10 : len(norms) * 4 // 10], norms[len(norms) * 7 // 10 :]
    low, high = np.quantile(early, [0.1, 0.9])
    median = float(np.median(late))
    return None if low <= median <= high else (float(np.median(early)), median)


def norms_of(run: Path, tag: str = BEFORE) -> Norms:
    """The finite, positive norms under a tag in a run's folder, or in the folder of one event file.

    Raises UserError if there are none.
    """
    folder = run.parent if run.is_file() else run
    if (folder / METRICS).is_file():
        found = metrics.read(folder)
    elif list(folder.glob("*tfevents*")):
        found = _scalars_in_event_files(folder)
    else:
        raise UserError(f"{run}: no {METRICS} and no event file of TensorBoard there")
    if tag not in found:
        near = difflib.get_close_matches(tag, found, 1, 0.4) or [each for each in found if "norm" in each]
        hint = f"; did you mean --tag {shlex.quote(near[0])}?" if near else f"; there are {', '.join(list(found)[:8])}"
        raise UserError(f"{run}: no scalar {tag!r}{hint}")
    values: Norms = np.array([value for _, value in found[tag]])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        raise UserError(f"{run}: {tag} holds no finite number above 0")
    return values


def _scalars_in_event_files(folder: Path) -> dict[str, Points]:
    """The scalars of another program, by tag, as TensorBoard's own loader reads them in either of their formats."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        arrays = [(each.step, make_ndarray(each.tensor_proto)) for each in events.Tensors(tag)]
        if all(array.size == 1 and array.dtype.kind in "fiu" for _, array in arrays):
            found[tag] = [(step, float(array.item())) for step, array in arrays]
    return found


def advise(run: Path, tag: str = BEFORE) -> str:
    """What is printed: the table, ready-made overrides, and the warnings."""
    norms = norms_of(run, tag)
    status = read_status(run)
    rows = [("threshold", "steps above", "why", "override")]
    rows += [(f"{each.threshold:.3g}", f"{100 * each.share:.1f} %", each.source, each.override)
             for each in suggestions(norms)]  # fmt: skip
    middle = f"{len(norms)} norms of {tag}: median {override_value(round(float(np.median(norms)), 4))}, "
    head = middle + f"mean {norms.mean():.4g}, largest {norms.max():.4g}"
    told = [f"warning: {each}" for each in warnings(norms, status)]
    best = advice(norms, status)
    return "\n".join([head, "", *columns(rows), "", *told, f"advice: python train.py {best.override}"])
