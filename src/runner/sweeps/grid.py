"""The points of a sweep, composed and checked before the first job starts, and the jobs of a grid."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runner.compose import Composer, checked, checked_node, without_hydra
from runner.config import RunConfig, Sweep, flatten
from runner.errors import UserError, explain
from runner.sweeps.results import Job, Plan
from runner.sweeps.space import Axis, is_passed_to_jobs, points


class Points:
    """The configurations of a sweep's points; points that choose the same options share one composition.

    A key that a point's options lack is dropped from that point if the options of another point have it.
    """

    def __init__(self, composer: Composer[Any], axes: Sequence[Axis]):
        """Raises UserError, and what Hydra raises, for a combination of options that cannot be composed."""
        self._composer = composer
        self._groups = set(composer.options())
        lines = sorted({value for axis in axes for value in axis.values})
        self._parsed = dict(zip(lines, composer.parse(lines), strict=True))
        options = [axis for axis in axes if self.is_option(axis)]
        # By the overrides that choose the options; with Hydra's own node.
        self._compositions = {tuple(choices): self._compose(choices) for choices in points(options)}

    @property
    def compositions(self) -> list[DictConfig]:
        """One composition for each combination of options, Hydra's own node included; the first point's is first."""
        return list(self._compositions.values())

    def _compose(self, choices: Sequence[str]) -> DictConfig:
        try:
            return self._composer.compose(choices)
        except Exception as error:
            raise UserError(f"{explain(error, self._composer.project, choices)} ({shlex.join(choices)})") from error

    def config(self, overrides: Sequence[str]) -> tuple[list[str], RunConfig]:
        """The overrides that a point's job is given, and the checked configuration. Raises as `checked` does."""
        kept, config = self._point(overrides)
        return list(filter(is_passed_to_jobs, kept)), checked(config, self._composer.project, kept)

    def folder(self, axes: Sequence[Axis]) -> str:
        """The value of `hydra.sweep.dir`. Raises UserError if it depends on a swept key."""
        ends = [[axis.values[end] for axis in axes] for end in (0, -1)]
        first, last = (self._point(overrides)[1].hydra.sweep.dir for overrides in ends)
        if first != last:
            raise UserError(f"hydra.sweep.dir: is not the same for all jobs ({first}, {last}), and they share a folder")
        if not first:
            raise UserError("hydra.sweep.dir='': names no folder")
        return str(first)

    def settings(self, axes: Sequence[Axis]) -> Sweep:
        """The keys under `sweep`, which are the same for all points."""
        config = without_hydra(self.compositions[0])
        lines = [axis.values[0] for axis in axes if axis.key.startswith("sweep.")]
        for override in map(self._override, lines):
            OmegaConf.update(config, override.key_or_group, override.value())
        settings: Sweep = checked_node(config.sweep, "sweep", self._composer.project, lines)
        return settings

    def is_option(self, axis: Axis) -> bool:
        """Whether an argument changes what is composed, such as the choice of a group's option."""
        return not self._is_value(self._override(axis.values[0]))

    def has_key(self, key: str, overrides: Sequence[str]) -> bool:
        """Whether the options that some overrides choose have a dotted key."""
        return _has_key(self._composition(overrides), key)

    def is_integer(self, key: str) -> bool:
        """Whether the value of a dotted key is an integer."""
        having = (config for config in self.compositions if _has_key(config, key))
        return type(OmegaConf.select(next(having, self.compositions[0]), key)) is int

    def _point(self, overrides: Sequence[str]) -> tuple[list[str], DictConfig]:
        """The overrides of a point without those that are dropped from it, and the composition with their values."""
        composition = self._composition(overrides)
        config, kept = composition.copy(), []
        for line in overrides:
            override = self._override(line)
            if self._is_value(override):
                if self._is_dropped(override.key_or_group, composition):
                    continue
                OmegaConf.update(config, override.key_or_group, override.value())
            kept.append(line)
        return kept, config

    def _composition(self, overrides: Sequence[str]) -> DictConfig:
        options = {line for line in overrides if not self._is_value(self._override(line))}
        return next(config for choices, config in self._compositions.items() if options == set(choices))

    def _override(self, line: str) -> Override:
        if line not in self._parsed:  # a value that a search drew from an interval
            (self._parsed[line],) = self._composer.parse([line])
        return self._parsed[line]

    def _is_value(self, override: Override) -> bool:
        """Whether an override sets the value of one key and leaves what is composed as it is."""
        key = override.key_or_group
        composes = override.is_add() or override.is_delete() or key.startswith("hydra")
        composes = composes or override.package is not None or key in self._groups
        return not composes and not isinstance(override.value(), dict)

    def _is_dropped(self, key: str, composition: DictConfig) -> bool:
        """Whether the options of other points have more of a dotted key than those of this point."""
        depth = _depth(composition, key)
        return any(_depth(other, key) > depth for other in self.compositions)


def _depth(config: DictConfig, key: str) -> int:
    """The number of leading parts of a dotted key that a composed configuration has."""
    node: Any = config
    for depth, name in enumerate(key.split(".")):
        if not isinstance(node, DictConfig) or name not in set(node):
            return depth
        node = None if OmegaConf.is_missing(node, name) else node[name]
    return key.count(".") + 1


def _has_key(config: DictConfig, key: str) -> bool:
    return _depth(config, key) == key.count(".") + 1


def plan(composer: Composer[Any], axes: Sequence[Axis], configurations: Points, arguments: Sequence[str]) -> Plan:
    """The jobs of a grid. Raises UserError for the first invalid point; nothing has run by then."""
    for axis in axes:
        if axis.interval is not None:
            raise UserError(f"{axis.line}: a grid takes lists, choice(…) and range(…); sweep.method=optuna searches "
                            "an interval")  # fmt: skip
    jobs: list[Job] = []
    for number, overrides in enumerate(points(axes)):
        try:
            job_overrides, config = configurations.config(overrides)
        except Exception as error:
            point = f"job {number}: {shlex.join(filter(is_passed_to_jobs, overrides))}"
            raise UserError(f"{explain(error, composer.project, overrides)} ({point})") from error
        jobs.append(make_job(number, job_overrides, config, axes, jobs))
    shared = set.intersection(*({(key, json.dumps(value)) for key, value in job.values.items()} for job in jobs))
    common = {key: jobs[0].values[key] for key, _ in sorted(shared)}
    for job in jobs:
        for key in common:
            del job.values[key]
    return Plan(list(arguments), jobs, composer.name, "grid", common)


def make_job(number: int, overrides: list[str], config: RunConfig, axes: Sequence[Axis], earlier: Sequence[Job]) -> Job:
    """A job with all its values; a duplicate if one of the earlier jobs has the same values."""
    values = run_values(config)
    digest = config_hash(values)
    duplicate_of = next((job.number for job in earlier if job.config == digest), None)
    swept = {axis.key: _swept_value(axis.key, values, overrides) for axis in axes if axis.swept}
    return Job(number, overrides, digest, duplicate_of, swept, values)


def run_values(config: RunConfig) -> dict[str, Any]:
    """The values that determine what a run does, by dotted key: all but the settings of sweeps."""
    return {key: value for key, value in flatten(config).items() if not key.startswith("sweep.")}


def config_hash(values: dict[str, Any]) -> str:
    """A short hash of the flattened configuration of a run: equal for jobs that run the same."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _swept_value(key: str, values: dict[str, Any], overrides: Sequence[str]) -> Any:
    """A swept key's value in a job: that of the configuration, the name of a group's option, or the override's text.

    None if the key was dropped.
    """
    path = key.replace("@", ".").rpartition(":")[2]
    for name in (path, f"{path}.name"):
        if name in values:
            return values[name]
    return next((o.partition("=")[2].strip("'") for o in overrides if o.lstrip("+").startswith(f"{key}=")), None)
