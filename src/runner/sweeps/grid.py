"""The grid of a sweep: expanded, checked and marked for duplicates before its first job runs."""

import hashlib
import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from runner.compose import Composer, checked, without_hydra
from runner.config import RunConfig, flatten
from runner.errors import UserError, explain
from runner.sweeps.results import Job, Plan, read_plan


def plan(
    composer: Composer[Any], master: DictConfig, arguments: list[str], flags: dict[str, str | None] | None = None
) -> Plan:
    """The jobs in the order in which Hydra's basic sweeper would number them.

    Raises UserError for the first point that is wrong; nothing has run by then.
    """
    points, swept = expand(composer, master, arguments)
    configs: list[RunConfig] = []
    bases: dict[tuple[str, ...], DictConfig] = {}
    for number, overrides in enumerate(points):
        try:
            configs.append(checked(_composed(composer, overrides, bases), composer.project, overrides))
        except Exception as error:
            point = f"job {number}: {' '.join(overrides)}"
            raise UserError(f"{explain(error, composer.project, overrides)} ({point})") from error
    flats = [run_values(config) for config in configs]
    same = set.intersection(*({(key, json.dumps(value)) for key, value in values.items()} for values in flats))
    common = {key: flats[0][key] for key, _ in sorted(same)}
    jobs: list[Job] = []
    first: dict[str, int] = {}
    for number, (overrides, values) in enumerate(zip(points, flats, strict=True)):
        digest = hash_of(values)
        own = {key: value for key, value in values.items() if key not in common}
        chosen = {key: _value(key, values, overrides) for key in swept}
        jobs.append(Job(number, overrides, digest, first.get(digest), chosen, own))
        first.setdefault(digest, number)
    return Plan(arguments, jobs, flags or {}, common)


def run_values(config: RunConfig) -> dict[str, Any]:
    """Every value that says what a run does, under its dotted key."""
    return {key: value for key, value in flatten(config).items() if not key.startswith("sweep.")}


def expand(composer: Composer[Any], master: DictConfig, arguments: list[str]) -> tuple[list[list[str]], list[str]]:
    """Every combination of the swept values, as lists of overrides; and the keys that are swept."""
    params = master.hydra.sweeper.get("params") or {}
    parsed = composer.parse([f"{key}={value}" for key, value in params.items()] + arguments)
    for override in parsed:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(f"{override.input_line}: a grid takes lists, choice(…) and range(…)")
        if override.is_sweep_override() and override.key_or_group.startswith("sweep."):
            raise UserError(f"{override.input_line}: is asked of the whole sweep, and has one value")
        if getattr(override.value(), "shuffle", False):
            raise UserError(f"{override.input_line}: cannot be shuffled, since a job is known by its number")
        if override.is_sweep_override() and not any(True for _ in override.sweep_string_iterator()):
            raise UserError(f"{override.input_line}: there is nothing to sweep over")
    (points,) = BasicSweeper.split_arguments([o for o in parsed if not o.is_hydra_override()], None)
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    return [composer.quoted(point) for point in points], list(dict.fromkeys(swept))


def fingerprint(config: RunConfig) -> str:
    """Equal for configurations that run the same, and only for them."""
    return hash_of(run_values(config))


def hash_of(values: dict[str, Any]) -> str:
    """A short hash of the flattened configuration of a run: equal for jobs that run the same."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def plan_again(old: Plan, composer: Composer[Any], master: DictConfig, folder: Path) -> None:
    """Raises UserError if the jobs of a sweep that is resumed are not those that it was planned with."""
    new = plan(composer, master, old.arguments)
    for before, after in zip_longest(old.jobs, new.jobs):
        if before is None or after is None or before.config != after.config:
            raise UserError(
                f"sweep.resume={folder}: conf/ or the code has changed since it was planned, and not all jobs "
                "would be the same; start a new sweep"
            )


def swept(folder: Path) -> dict[str, Any]:
    """The swept keys and their values in the job of this folder; none where there is no sweep."""
    plan = read_plan(folder.parent)
    return next((job.swept for job in plan.jobs if str(job.number) == folder.name), {}) if plan else {}


def _value(key: str, values: dict[str, Any], overrides: Sequence[str]) -> Any:
    """What a swept key is in a job: a value, the option of a group, or the words of the command line."""
    named = key.replace("@", ".").rpartition(":")[2]
    for name in (named, f"{named}.name"):
        if name in values:
            return values[name]
    return next(o.partition("=")[2].strip("'") for o in overrides if o.lstrip("+").startswith(f"{key}="))


def _composed(composer: Composer[Any], overrides: list[str], bases: dict[tuple[str, ...], DictConfig]) -> DictConfig:
    """As `composer.compose`, with one slow composition for all points that choose the same options."""
    parsed = composer.parse(overrides)
    groups = composer.groups()
    plain = [override for override in parsed if _is_plain(override, groups)]
    choices = tuple(str(override.input_line) for override in parsed if not _is_plain(override, groups))
    if choices not in bases:
        bases[choices] = without_hydra(composer.compose(list(choices)))
    config = bases[choices].copy()
    ConfigLoaderImpl._apply_overrides_to_config(plain, config)
    return config


def _is_plain(override: Override, groups: Sequence[str]) -> bool:
    changes_the_tree = override.is_add() or override.is_force_add() or override.is_delete()
    return not changes_the_tree and override.key_or_group not in groups and not isinstance(override.value(), dict)
