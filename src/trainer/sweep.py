"""The grid of a sweep: expanded, checked and marked for duplicates before its first job runs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from trainer.compose import Composer, checked, without_hydra
from trainer.config import Mistake, Train, flat
from trainer.messages import explain

PLAN = "sweep.json"


@dataclass(frozen=True)
class Job:
    """One point of the grid. duplicate_of: the number of an earlier job with an equal configuration."""

    number: int
    overrides: list[str]
    config: str
    duplicate_of: int | None


def plan(composer: Composer, master: DictConfig, arguments: list[str]) -> tuple[list[Job], list[Train]]:
    """The jobs in the order in which Hydra's basic sweeper will number them, and their configurations.

    Raises Mistake for the first point that is wrong; nothing has run by then.
    """
    points = expand(composer, master, arguments)
    jobs: list[Job] = []
    configs: list[Train] = []
    first: dict[str, int] = {}
    bases: dict[tuple[str, ...], DictConfig] = {}
    for number, overrides in enumerate(points):
        try:
            config = checked(_composed(composer, overrides, bases), overrides)
        except Exception as error:
            point = f"job {number}: {' '.join(overrides)}"
            raise Mistake(f"{explain(error, overrides)} ({point})") from error
        digest = fingerprint(config)
        jobs.append(Job(number, overrides, digest, first.get(digest)))
        configs.append(config)
        first.setdefault(digest, number)
    return jobs, configs


def expand(composer: Composer, master: DictConfig, arguments: list[str]) -> list[list[str]]:
    """Every combination of the swept values, as lists of overrides."""
    params = master.hydra.sweeper.get("params") or {}
    parsed = composer.parse([f"{key}={value}" for key, value in params.items()] + arguments)
    for override in parsed:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise Mistake(f"{override.input_line}: a grid takes lists, choice(…) and range(…)")
        if getattr(override.value(), "shuffle", False):
            raise Mistake(f"{override.input_line}: cannot be shuffled, since a job is known by its number")
        if override.is_sweep_override() and not any(True for _ in override.sweep_string_iterator()):
            raise Mistake(f"{override.input_line}: there is nothing to sweep over")
    (points,) = BasicSweeper.split_arguments([o for o in parsed if not o.is_hydra_override()], None)
    return [composer.quoted(point) for point in points]


def fingerprint(config: Train) -> str:
    """Equal for equal configurations, and only for them."""
    return hashlib.sha256(json.dumps(flat(config), sort_keys=True).encode()).hexdigest()[:16]


def write(folder: Path, arguments: Sequence[str], jobs: Sequence[Job]) -> None:
    """sweep.json: what was asked for, and every job with its overrides and the hash of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"arguments": list(arguments), "jobs": [asdict(job) for job in jobs]}
    (folder / PLAN).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def duplicate_of(folder: Path, number: int, config: Train) -> int | None:
    """The job that this one repeats, if the sweep was planned, and planned to run just this configuration."""
    if not (folder / PLAN).is_file():
        return None
    for job in json.loads((folder / PLAN).read_text(encoding="utf-8"))["jobs"]:
        if job["number"] == number and job["config"] == fingerprint(config):
            earlier: int | None = job["duplicate_of"]
            return earlier
    return None


def _composed(composer: Composer, overrides: list[str], bases: dict[tuple[str, ...], DictConfig]) -> DictConfig:
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
