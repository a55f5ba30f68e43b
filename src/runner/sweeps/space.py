"""The arguments of a sweep: which keys have several values or an interval, and which have one value."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, QuotedString

from runner.compose import Composer
from runner.config import Project, expand_home
from runner.errors import UserError, quote_override

# Settings of the sweep itself and of its folder, which no job is given.
NOT_FOR_JOBS = ("sweep.", "hydra.sweep.", "hydra.run.", "hydra.sweeper.")


@dataclass(frozen=True)
class Interval:
    """What a search draws from. low, high: its ends; log: whether on a logarithmic scale."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Axis:
    """One argument. line: as it was written; key: the dotted key or group; values: the argument once for each value.

    swept: it has several values, or an interval, whose two ends the values are.
    """

    line: str
    key: str
    values: list[str]
    swept: bool = False
    interval: Interval | None = None


def axes(composer: Composer[Any], arguments: Sequence[str]) -> list[Axis]:
    """The arguments in their order. Raises UserError for those that a sweep cannot have."""
    return [_axis(override, composer.project) for override in composer.parse(arguments)]


def points(axes: Sequence[Axis]) -> Iterator[list[str]]:
    """Every combination of the values, as lists of overrides; the last argument changes fastest."""
    return map(list, itertools.product(*(axis.values for axis in axes)))


def for_job(override: str) -> bool:
    """Whether a job is given this override."""
    return not override.lstrip("+~").startswith(NOT_FOR_JOBS)


def _axis(override: Override, project: Project[Any]) -> Axis:
    line, key = str(override.input_line), override.get_key_element()
    named = override.key_or_group
    if not override.is_sweep_override():
        line = _absolute(line, override, project)
        return Axis(line, named, [line])
    if named.startswith(("sweep.", "hydra")):
        raise UserError(f"{line}: a setting of the whole sweep has one value")
    if isinstance(value := override.value(), IntervalSweep):
        if key != named:
            raise UserError(f"{line}: an interval is given without +")
        interval = _interval(line, value)
        return Axis(
            line, key.lstrip("+"), [f"{key}={_number(end)}" for end in (interval.low, interval.high)], True, interval
        )
    if getattr(value, "shuffle", False):
        raise UserError(f"{line}: cannot be shuffled, since a job is known by its number")
    values = [f"{key}={each}" for each in override.sweep_string_iterator()]
    if not values:
        raise UserError(f"{line}: there is nothing to sweep over")
    if named in project.path_keys:
        values = [f"{key}={_path(each)}" for each in override.sweep_iterator()]
        line = f"{key}={','.join(each.partition('=')[2] for each in values)}"
    return Axis(line, key.lstrip("+"), values, True)


def _absolute(line: str, override: Override, project: Project[Any]) -> str:
    """The override with its value made absolute where it is a path: `outputs/latest` will be this sweep itself."""
    value = override.value()
    if override.key_or_group == "hydra.searchpath" and isinstance(value, list):
        paths = [str(each) if "pkg://" in str(each) else f"file://{_resolved(each)}" for each in value]
        return f"hydra.searchpath=[{','.join(map(quote_override, paths))}]"
    if override.key_or_group not in project.path_keys or not isinstance(value, str) or "${" in value:
        return line
    return f"{line.partition('=')[0]}={quote_override(str(_resolved(value)))}"


def _path(value: Any) -> str:
    """A swept value made absolute, as Hydra's grammar writes it; null stays."""
    text = value.text if isinstance(value, QuotedString) else value
    return "null" if text is None else quote_override(str(_resolved(text)))


def _resolved(path: Any) -> Path:
    return expand_home(str(path).removeprefix("file://")).resolve()


def _interval(line: str, value: IntervalSweep) -> Interval:
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        also = ", and on a log scale both above 0" if log else ""
        raise UserError(f"{line}: the second end of an interval must be above the first{also}")
    return Interval(float(low), float(high), log)


def _number(value: float) -> str:
    """Without a fraction where there is none, as keys of whole numbers need it."""
    return str(int(value)) if value.is_integer() else repr(value)
