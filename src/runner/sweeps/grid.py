"""The points of a sweep: composed, checked and compared before the first job runs."""

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
from runner.sweeps.space import Axis, for_job, points


class Points:
    """Configurations of a sweep's points, with one composition for all points that choose the same options.

    A key that only some of the options have which the sweep chooses is left out of the other points.
    """

    def __init__(self, composer: Composer[Any], axes: Sequence[Axis]):
        """Raises UserError, and what Hydra raises, for a combination of options that cannot be composed."""
        self._composer = composer
        self._groups = set(composer.options())
        lines = sorted({value for axis in axes for value in axis.values})
        self._parsed = dict(zip(lines, composer.parse(lines), strict=True))
        options = [axis for axis in axes if not self._is_plain(self._parsed[axis.values[0]])]
        combinations = [tuple(choices) for choices in points(options)]
        self.compositions = [self._compose(choices) for choices in combinations]  # Hydra's node included
        self._bases = dict(zip(combinations, map(without_hydra, self.compositions), strict=True))

    @property
    def first(self) -> DictConfig:
        """The composition of the first point's options."""
        return self.compositions[0]

    def _compose(self, choices: Sequence[str]) -> DictConfig:
        try:
            return self._composer.compose(choices)
        except Exception as error:
            raise UserError(f"{explain(error, self._composer.project, choices)} ({shlex.join(choices)})") from error

    def config(self, overrides: Sequence[str]) -> tuple[list[str], RunConfig]:
        """A point's overrides, as its job is given them, and its checked configuration. Raises as `checked` does."""
        parsed = [self._override(each) for each in overrides]
        plain = [override for override in parsed if self._is_plain(override)]
        base = self._base(overrides)
        dropped = {
            str(override.input_line) for override in plain if self._is_only_in_others(override.key_or_group, base)
        }
        config = base.copy()
        for override in plain:
            if str(override.input_line) not in dropped:
                OmegaConf.update(config, override.key_or_group, override.value())
        kept = [each for each in overrides if each not in dropped]
        return [each for each in kept if for_job(each)], checked(config, self._composer.project, kept)

    def settings(self, axes: Sequence[Axis]) -> Sweep:
        """The keys under `sweep`, which are the same for all points."""
        config = without_hydra(self.first)
        lines = [axis.values[0] for axis in axes if axis.key.startswith("sweep.")]
        for override in map(self._override, lines):
            OmegaConf.update(config, override.key_or_group, override.value())
        settings: Sweep = checked_node(config.sweep, "sweep", self._composer.project, lines)
        return settings

    def is_option(self, axis: Axis) -> bool:
        """Whether an argument chooses what is composed, such as an option of a group."""
        return not self._is_plain(self._override(axis.values[0]))

    def takes(self, key: str, overrides: Sequence[str]) -> bool:
        """Whether the options among some overrides have a key."""
        return has_key(self._base(overrides), key)

    def is_whole(self, key: str) -> bool:
        """Whether a key's value is a whole number."""
        base = next((base for base in self._bases.values() if has_key(base, key)), self.first)
        return type(OmegaConf.select(base, key)) is int

    def _base(self, overrides: Sequence[str]) -> DictConfig:
        parsed = map(self._override, overrides)
        options = {str(override.input_line) for override in parsed if not self._is_plain(override)}
        return next(base for choices, base in self._bases.items() if options == set(choices))

    def _override(self, line: str) -> Override:
        if line not in self._parsed:  # a value that a search drew from an interval
            (self._parsed[line],) = self._composer.parse([line])
        return self._parsed[line]

    def _is_plain(self, override: Override) -> bool:
        """Whether it sets one value, and not what is composed."""
        key = override.key_or_group
        composes = override.is_add() or override.is_delete() or key.startswith("hydra")
        composes = composes or override.package is not None or key in self._groups
        return not composes and not isinstance(override.value(), dict)

    def _is_only_in_others(self, key: str, base: DictConfig) -> bool:
        """Whether the options of other points have more of a dotted key than those of this point."""
        depth = depth_of(base, key)
        return any(depth_of(other, key) > depth for other in self._bases.values())


def depth_of(config: DictConfig, key: str) -> int:
    """How many leading parts of a dotted key a composed configuration has; all of them if it has the key."""
    node: Any = config
    for depth, name in enumerate(key.split(".")):
        if not isinstance(node, DictConfig) or name not in set(node):
            return depth
        node = None if OmegaConf.is_missing(node, name) else node[name]
    return key.count(".") + 1


def has_key(config: DictConfig, key: str) -> bool:
    """Whether a composed configuration has a dotted key, whatever its value."""
    return depth_of(config, key) == key.count(".") + 1


def plan(composer: Composer[Any], axes: Sequence[Axis], configurations: Points, arguments: Sequence[str]) -> Plan:
    """The jobs of a grid. Raises UserError for the first point that is wrong; nothing has run by then."""
    for axis in axes:
        if axis.interval is not None:
            raise UserError(f"{axis.line}: a grid takes lists, choice(…) and range(…); sweep.method=optuna searches "
                            "an interval")  # fmt: skip
    jobs: list[Job] = []
    for number, overrides in enumerate(points(axes)):
        try:
            given, config = configurations.config(overrides)
        except Exception as error:
            point = f"job {number}: {shlex.join(filter(for_job, overrides))}"
            raise UserError(f"{explain(error, composer.project, overrides)} ({point})") from error
        jobs.append(make_job(number, given, config, axes, jobs))
    same = set.intersection(*({(key, json.dumps(value)) for key, value in job.values.items()} for job in jobs))
    common = {key: jobs[0].values[key] for key, _ in sorted(same)}
    for job in jobs:
        for key in common:
            del job.values[key]
    return Plan(list(arguments), jobs, composer.name, "grid", common)


def make_job(number: int, overrides: list[str], config: RunConfig, axes: Sequence[Axis], earlier: Sequence[Job]) -> Job:
    """A job with all its values; a duplicate if one of the earlier jobs has the same."""
    values = run_values(config)
    digest = hash_of(values)
    same = next((job.number for job in earlier if job.config == digest), None)
    swept = {axis.key: _value(axis.key, values, overrides) for axis in axes if axis.swept}
    return Job(number, overrides, digest, same, swept, values)


def run_values(config: RunConfig) -> dict[str, Any]:
    """Every value that says what a run does, under its dotted key."""
    return {key: value for key, value in flatten(config).items() if not key.startswith("sweep.")}


def hash_of(values: dict[str, Any]) -> str:
    """A short hash of the flattened configuration of a run: equal for jobs that run the same."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _value(key: str, values: dict[str, Any], overrides: Sequence[str]) -> Any:
    """What a swept key is in a job: a value, the option of a group, or the argument's own word; None if left out."""
    named = key.replace("@", ".").rpartition(":")[2]
    for name in (named, f"{named}.name"):
        if name in values:
            return values[name]
    return next((o.partition("=")[2].strip("'") for o in overrides if o.lstrip("+").startswith(f"{key}=")), None)
