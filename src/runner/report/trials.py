"""The runs of sweeps as a report reads them: the configuration, the result and the logged series of each."""

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from runner.errors import UserError
from runner.report.commands import has_overrides, repeat_command
from runner.runs.run import CONFIG_FILE
from runner.runs.status import STATUS_FILE
from runner.sweeps.results import PLAN_FILE, Job, Plan, Result, read_one, read_plan
from runner.sweeps.results import read as read_results
from runner.tracking import metrics
from runner.tracking.tags import CLIP_FRACTION, CLIP_LIMIT, NORM_AFTER, NORM_BEFORE, TRAIN_LOSS, VALIDATION_LOSS

TAGS = (TRAIN_LOSS, VALIDATION_LOSS, NORM_BEFORE, NORM_AFTER, CLIP_LIMIT, CLIP_FRACTION)
SEED = "seed"


class Series(NamedTuple):
    """One tag of one run: steps [n] in ascending order, and values [n]."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass
class Trial:
    """One run: its configuration by dotted key (values), how it ended (result), and what it logged (series)."""

    values: dict[str, Any]
    result: Result
    series: dict[str, Series] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run finished, with a finite objective."""
        objective = self.result.objective
        return self.result.state == "finished" and objective is not None and math.isfinite(objective)

    @property
    def seed(self) -> int | None:
        """The run's seed; None if it is unknown, or no whole number."""
        seed = self.values.get(SEED)
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def read_trials(folder: Path) -> list[Trial]:
    """The jobs of a sweep, or the runs in a folder, without their series. Raises UserError if there are none."""
    if (plan := read_plan(folder)) is not None:
        return [Trial(plan.common | result.job.values, result) for result in read_results(folder, plan)]
    runs = [folder] if (folder / STATUS_FILE).is_file() else sorted(p.parent for p in folder.glob(f"*/{STATUS_FILE}"))
    if not runs:
        raise UserError(
            f"{folder}: not a sweep or a run: it has no {PLAN_FILE}, and neither it nor its folders a {STATUS_FILE}"
        )
    return [Trial(_saved_values(run), read_one(run, Job(number, [], ""))) for number, run in enumerate(runs)]


RESULTS = ("diverged", "finished", "pruned")  # in the order in which one of several runs of a configuration counts


def distinct_runs(trials: Sequence[Trial]) -> tuple[list[Trial], int]:
    """One run for every configuration, and the number of the other runs.

    A diverged run precedes a finished one: a configuration that once diverged is not stable.
    """
    distinct: dict[str, Trial] = {}
    for trial in trials:
        if trial.result.state == "duplicate" or trial.result.job.duplicate_of is not None:
            continue
        key = json.dumps(trial.values, sort_keys=True)
        if key not in distinct or _precedence(trial) < _precedence(distinct[key]):
            distinct[key] = trial
    return list(distinct.values()), len(trials) - len(distinct)


def _precedence(trial: Trial) -> int:
    return RESULTS.index(trial.result.state) if trial.result.state in RESULTS else len(RESULTS)


def read_series(run: Path) -> dict[str, Series]:
    """The series under `TAGS` in a run's metrics.jsonl."""
    return {
        tag: Series(np.array([step for step, _ in points]), np.array([value for _, value in points]))
        for tag, points in metrics.read(run, TAGS).items()
    }


def sweep_command(plan: Plan) -> str:
    """The command that started a sweep, without Hydra's own settings."""
    return shlex.join(["python", "train.py", "-m", *_without_hydra(plan.arguments)])


def fixed_overrides(plan: Plan) -> list[str]:
    """The overrides that all jobs of a sweep share, except the seed: they belong to any follow-up sweep."""
    swept = {key for job in plan.jobs[:1] for key in job.swept}
    by_key = [(line.lstrip("+").partition("=")[0], line) for line in _without_hydra(plan.arguments) if "=" in line]
    return [line for key, line in by_key if key not in (*swept, SEED) and not key.startswith("sweep.")]


def own_overrides(run: Path) -> list[str] | None:
    """The overrides of a run that was started alone, except the seed; None if they are unknown."""
    if not has_overrides(run):
        return None
    return [line for line in shlex.split(repeat_command(run, []))[2:] if line.partition("=")[0] != SEED]


def _without_hydra(arguments: Sequence[str]) -> list[str]:
    """The arguments without Hydra's own settings, except `hydra.searchpath`, which adds options to conf/."""
    names = [(argument.lstrip("+"), argument) for argument in arguments]
    return [line for name, line in names if not name.startswith("hydra") or name.startswith("hydra.searchpath=")]


def _saved_values(run: Path) -> dict[str, Any]:
    """The values in a run's config.yaml by dotted key; the folder's name for a run that failed before it was saved."""
    try:
        saved = yaml.load((run / CONFIG_FILE).read_text(encoding="utf-8"), _Loader)
    except OSError:
        return {"run": run.name}
    return {key: value for key, value in _flatten(saved) if not key.startswith("sweep.")}


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser where it is installed


def _flatten(node: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
