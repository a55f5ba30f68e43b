"""The table of a report: a row for every configuration, with the mean and spread of the objective over its seeds."""

import json
import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.report.override_text import format_override_value, override_key
from runner.report.rows import POLICY, THRESHOLD, Row
from runner.report.trials import (
    SEED,
    Trial,
    distinct_runs,
    fixed_overrides,
    own_overrides,
    read_series,
    read_trials,
    sweep_command,
)
from runner.sweeps.results import read_plan

DATA = "data.name"  # the key of the data set, where the project has a group `data`
MIN_SEEDS = 3  # fewer say too little about the spread for an interval


@dataclass
class Table:
    """All rows, the best first.

    columns: the dotted keys in which the rows differ. duplicates: how many jobs repeat another and are not counted.
    commands: those that started the sweeps. fixed: the overrides that all runs share. complete: whether these and the
    columns are all overrides of the runs. accepts: whether the project accepts a configuration, given as overrides.
    """

    rows: list[Row]
    columns: list[str]
    duplicates: int
    commands: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    complete: bool = True
    accepts: Callable[[Sequence[str]], bool] = lambda overrides: True

    @property
    def trials(self) -> list[Trial]:
        """The runs of all rows."""
        return [trial for row in self.rows for trial in row.trials]

    @property
    def stable(self) -> list[Row]:
        """The rows with a finished run and without a diverged one, the best first."""
        return [row for row in self.rows if row.rank == 0]

    @property
    def data(self) -> list[str]:
        """The names of the data sets of all runs. Losses on different data cannot be compared."""
        return sorted({str(trial.values[DATA]) for trial in self.trials if DATA in trial.values})

    def name(self, row: Row) -> str:
        """The row as overrides on a command line, quoted for a shell."""
        return shlex.join(self.overrides([row]))

    def overrides(self, rows: Sequence[Row]) -> list[str]:
        """The overrides of the smallest grid with these rows; of one row, those that distinguish it from the others."""
        values = {key: dict.fromkeys(format_override_value(row.values[key]) for row in rows if _is_set(row, key))
                  for key in self.columns}  # fmt: skip
        return [f"{override_key(key)}={','.join(found)}" for key, found in values.items() if found]


def build(folders: Sequence[Path]) -> Table:
    """The table of sweeps, or of folders with runs. Raises UserError for a folder without any."""
    trials, duplicates = distinct_runs([trial for folder in folders for trial in read_trials(folder)])
    rows: dict[str, Row] = {}
    for trial in trials:
        values = {key: value for key, value in trial.values.items() if key != SEED}
        rows.setdefault(json.dumps(values, sort_keys=True), Row(values, [])).trials.append(trial)
        trial.series = read_series(trial.result.folder)
    ranked = in_order(rows.values())
    table = Table(ranked, differing_keys([row.values for row in ranked]), duplicates)
    _add_overrides(table, folders)
    return table


def _add_overrides(table: Table, folders: Sequence[Path]) -> None:
    """Adds to a table the commands of sweeps, the overrides that all runs share, and whether these are all."""
    plans = [plan for folder in folders if (plan := read_plan(folder))]
    runs = [trial.result.folder for folder in folders if not read_plan(folder) for trial in read_trials(folder)]
    sources = [*map(fixed_overrides, plans), *map(own_overrides, runs)]
    known = [each for each in sources if each is not None]
    table.commands = [sweep_command(plan) for plan in plans]
    if not known or len(known) < len(sources):
        table.complete = False
        return
    table.fixed = [line for line in known[0] if all(line in other for other in known)]
    explained = {override_key(key) for key in table.columns}
    others = {line.partition("=")[0] for each in known for line in each if line not in table.fixed}
    table.complete = not runs or others <= explained


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The best row, then the others by their means; rows without a diverged run precede those with one."""
    by_mean = sorted(rows, key=lambda row: (row.rank, row.mean if row.objectives else 0.0))
    best = _lowest([row for row in by_mean if row.rank == 0])
    return by_mean if best is None else [best, *(row for row in by_mean if row is not best)]


def _lowest(rows: Sequence[Row]) -> Row | None:
    """The row with the lowest mean over the seeds that all of these rows finished; None without rows.

    Rows with fewer than MIN_SEEDS seeds are left out if others have more. Without common seeds, or with fewer than
    MIN_SEEDS of them where the rows have more, the mean is over the seeds that each row finished.
    """
    repeated = [row for row in rows if len(row.by_seed) >= MIN_SEEDS] or list(rows)
    if not repeated:
        return None
    common = set.intersection(*(set(row.by_seed) for row in repeated))
    if len(common) < max(1, min(MIN_SEEDS, *(len(row.by_seed) for row in repeated))):
        return min(repeated, key=lambda row: row.mean)
    return min(repeated, key=lambda row: statistics.fmean(row.by_seed[seed] for seed in common))


def differing_keys(values: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values differ, the policy and its threshold first.

    Without keys whose value follows from the option of their group, such as the norm type of a policy.
    """
    keys = list(dict.fromkeys(key for row in values for key in row))
    differ = [key for key in keys if len({json.dumps(row.get(key)) for row in values}) > 1]
    kept = [key for key in differ if key == THRESHOLD or not _is_implied(key, values)]
    return sorted(kept, key=lambda key: (key != POLICY, key != THRESHOLD, keys.index(key)))


def _is_implied(key: str, values: Sequence[dict[str, Any]]) -> bool:
    """Whether the option of the key's group, or of a group around it, determines the key's value."""
    return any(_determines(f"{group}.name", key, values) for group in _groups(key))


def _groups(key: str) -> list[str]:
    """The groups around a key, the outermost first; around the name of an option, those around its own group."""
    parts = key.removesuffix(".name").split(".")[:-1]
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _determines(name: str, key: str, values: Sequence[dict[str, Any]]) -> bool:
    """Whether the rows have several options under a name, and rows with the same one have the same value of a key."""
    by_option: dict[Any, set[str]] = {}
    for row in values:
        by_option.setdefault(row.get(name), set()).add(json.dumps(row.get(key)))
    return len(by_option) > 1 and all(len(distinct) == 1 for distinct in by_option.values())


def _is_set(row: Row, key: str) -> bool:
    """Whether an override sets the row's value: null is one, but under `clip` it means that the policy has none."""
    return row.values.get(key) is not None or (key in row.values and not key.startswith("clip."))
