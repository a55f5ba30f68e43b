"""What a sweep found, in numbers: a row for every configuration, with the mean and spread over its seeds."""

import json
import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from gradclip.policies import Policy
from runner.errors import UserError, quote_override
from runner.runs.status import STATUS_FILE
from runner.sweeps.results import Job, Plan, Result, read_one, read_plan
from runner.sweeps.results import read as read_results
from runner.tracking import metrics
from runner.tracking.tags import AFTER, BEFORE, FRACTION, LIMIT, LOSS, VALIDATION

TAGS = (LOSS, VALIDATION, BEFORE, AFTER, LIMIT, FRACTION)
POLICY, THRESHOLD, SEED = "clip.name", "clip.max", "seed"
FAILED = ("failed", "killed", "rejected")
OPEN = ("running", "queued", "missing", "interrupted")


class Series(NamedTuple):
    """One tag of one run: steps [n] in ascending order, and values [n]."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass
class Trial:
    """One run: what it was (values), how it ended (result), and what it wrote (series)."""

    values: dict[str, Any]
    result: Result
    series: dict[str, Series] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.result.state == "finished" and self.result.objective is not None


@dataclass
class Row:
    """A configuration with all its seeds. The mean, deviation and error are those of the finished ones."""

    values: dict[str, Any]
    trials: list[Trial]
    tied: bool = False  # with the best row, or the best row with another

    @property
    def objectives(self) -> list[float]:
        return [trial.result.objective for trial in self.trials if trial.finished]  # type: ignore[misc]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.objectives) if self.objectives else math.nan

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds; None where one seed, or none, finished."""
        return statistics.stdev(self.objectives) if len(self.objectives) > 1 else None

    @property
    def error(self) -> float | None:
        """The standard error of the mean."""
        return None if self.deviation is None else self.deviation / math.sqrt(len(self.objectives))

    @property
    def counts(self) -> Counter[str]:
        return Counter(trial.result.state for trial in self.trials)

    def count(self, states: Iterable[str]) -> int:
        return sum(self.counts[state] for state in states)

    @property
    def rank(self) -> int:
        """0: finished without divergence; 1: diverged at some seeds; 2: finished at none."""
        return 2 if not self.objectives else int(self.counts["diverged"] > 0)

    @property
    def policy(self) -> str:
        return str(self.values.get(POLICY))

    @property
    def clipped(self) -> float | None:
        """The share of steps in which anything was limited, over all runs."""
        return _over([s[FRACTION].values > 0 for s in self._series if FRACTION in s], "mean")

    @property
    def norm(self) -> float | None:
        """The median norm before clipping, over all steps of all runs."""
        return _over([s[BEFORE].values for s in self._series if BEFORE in s], "median")

    @property
    def threshold(self) -> float | None:
        """What is drawn on the axis: max where it is the threshold itself, else the median of the limits."""
        schema = Policy.options.get(self.policy)
        if schema is None or schema.kind == "measure":
            return None
        if not schema.max_is_cap and self.values.get(THRESHOLD) is not None:
            return float(self.values[THRESHOLD])
        return _over([s[LIMIT].values for s in self._series if LIMIT in s], "median")

    @property
    def best_trial(self) -> Trial:
        """The finished run with the best objective; without one, the run that came furthest."""
        finished = [trial for trial in self.trials if trial.finished]
        if finished:
            return min(finished, key=lambda trial: trial.result.objective or 0.0)
        return max(self.trials, key=lambda trial: trial.result.step)

    @property
    def _series(self) -> list[dict[str, Series]]:
        return [trial.series for trial in self.trials]


def _over(parts: Sequence[Any], what: str) -> float | None:
    """The mean or median of the finite numbers in all parts together."""
    together = np.concatenate([np.asarray(part, np.float64) for part in parts]) if parts else np.zeros(0)
    together = together[np.isfinite(together)]
    return float(getattr(np, what)(together)) if together.size else None


@dataclass
class Table:
    """All rows, the best first; columns: the keys that differ; duplicates: how many jobs were collapsed into others.

    commands: what the sweeps were asked for. fixed: their overrides that were not swept, the same in all.
    """

    rows: list[Row]
    columns: list[str]
    duplicates: int
    commands: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)

    @property
    def trials(self) -> list[Trial]:
        return [trial for row in self.rows for trial in row.trials]

    @property
    def clean(self) -> list[Row]:
        """The rows that finished and at no seed diverged, the best first."""
        return [row for row in self.rows if row.rank == 0]

    def name(self, row: Row) -> str:
        """The row as overrides on a command line."""
        return " ".join(self.overrides(row).values())

    def overrides(self, row: Row) -> dict[str, str]:
        """The row's own overrides, by the keys that they set."""
        return {
            key: f"{'clip' if key == POLICY else key.removesuffix('.name')}={override_value(row.values[key])}"
            for key in self.columns
            if row.values.get(key) is not None
        }


def build(folders: Sequence[Path]) -> Table:
    """Reads sweeps, or folders of runs. Raises UserError for a folder without any."""
    trials, duplicates = [], 0
    for folder in folders:
        found = _trials(folder)
        kept = [trial for trial in found if trial.result.state != "duplicate" and trial.result.job.duplicate_of is None]
        duplicates += len(found) - len(kept)
        trials += kept
    by_values: dict[str, Trial] = {}
    for trial in trials:
        key = json.dumps(trial.values, sort_keys=True)
        if key in by_values:
            duplicates += 1
        if key not in by_values or (trial.finished and not by_values[key].finished):
            by_values[key] = trial
    rows: dict[str, Row] = {}
    for trial in by_values.values():
        values = {key: value for key, value in trial.values.items() if key != SEED}
        rows.setdefault(json.dumps(values, sort_keys=True), Row(values, [])).trials.append(trial)
        trial.series = read_series(trial.result.folder)
    ordered = sorted(rows.values(), key=lambda row: (row.rank, row.mean if row.objectives else 0.0))
    _mark_ties([row for row in ordered if row.rank == 0])
    plans = [plan for folder in folders if (plan := read_plan(folder))]
    commands = [shlex.join(["python", "train.py", "-m", *_own(plan.arguments)]) for plan in plans]
    fixed = [_fixed(plan) for plan in plans]
    same = [each for each in fixed[0] if all(each in other for other in fixed)] if fixed else []
    return Table(ordered, differing([row.values for row in ordered]), duplicates, commands, same)


def read_series(run: Path) -> dict[str, Series]:
    """What a run's metrics.jsonl holds of TAGS."""
    return {
        tag: Series(np.array([step for step, _ in points]), np.array([value for _, value in points]))
        for tag, points in metrics.read(run, TAGS).items()
    }


def _own(arguments: Sequence[str]) -> list[str]:
    """Without Hydra's own settings, such as the folder; what adds options to conf/ stays."""
    names = [(each.lstrip("+"), each) for each in arguments]
    return [each for name, each in names if not name.startswith("hydra") or name.startswith("hydra.searchpath=")]


def _fixed(plan: Plan) -> list[str]:
    """The overrides that all jobs of a sweep share, which belong to any command that goes on from it."""
    swept = {key for job in plan.jobs[:1] for key in job.swept}
    named = [(each.lstrip("+").partition("=")[0], each) for each in _own(plan.arguments) if "=" in each]
    return [each for key, each in named if key not in (*swept, SEED) and not key.startswith("sweep.")]


def _trials(folder: Path) -> list[Trial]:
    if (plan := read_plan(folder)) is not None:
        return [Trial(plan.common | result.job.values, result) for result in read_results(folder, plan)]
    runs = [folder] if (folder / STATUS_FILE).is_file() else sorted(p.parent for p in folder.glob(f"*/{STATUS_FILE}"))
    if not runs:
        missing = f"it has neither sweep.json nor {STATUS_FILE}, nor has a folder in it"
        raise UserError(f"{folder}: no sweep and no run; {missing}")
    found = []
    for number, run in enumerate(runs):
        values = _saved_values(run)
        found.append(Trial(values, read_one(run, Job(number, [], ""))))
    return found


def _saved_values(run: Path) -> dict[str, Any]:
    """config.yaml under dotted keys; a run that failed before it was saved is known by its folder alone."""
    try:
        saved = yaml.load((run / "config.yaml").read_text(encoding="utf-8"), _Loader)
    except OSError:
        return {"run": run.name}
    return {key: value for key, value in _flat(saved) if not key.startswith("sweep.")}


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _flat(node: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differing(values: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that are not the same everywhere, without those that an option of their group brings along."""
    keys = list(dict.fromkeys(key for each in values for key in each))
    differ = [key for key in keys if len({json.dumps(each.get(key)) for each in values}) > 1]
    kept = [key for key in differ if key == THRESHOLD or key.endswith("name") or not _implied(key, values)]
    return sorted(kept, key=lambda key: (key != POLICY, key != THRESHOLD, keys.index(key)))


def _implied(key: str, values: Sequence[dict[str, Any]]) -> bool:
    """Whether the option that a key's group has says its value already."""
    name = f"{key.split('.')[0]}.name"
    seen: dict[Any, set[str]] = {}
    for each in values:
        seen.setdefault(each.get(name), set()).add(json.dumps(each.get(key)))
    return len(seen) > 1 and all(len(found) == 1 for found in seen.values())


def _mark_ties(rows: Sequence[Row]) -> None:
    """A tie: the intervals of one standard error around two means overlap, or the means are the same."""
    for row in rows[1:]:
        if ties(rows[0], row):
            rows[0].tied = row.tied = True


def ties(one: Row, other: Row) -> bool:
    """Whether two rows cannot be told apart by one standard error each."""
    if one.error is None or other.error is None:
        return one.mean == other.mean
    return abs(one.mean - other.mean) <= one.error + other.error


def override_value(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(override_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else quote_override(str(value))
