"""The search space: for each argument of a sweep, its value, its values or its interval."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, QuotedString

from runner.compose import Composer
from runner.config import Project, expand_home
from runner.errors import UserError, quote_override

# Settings of the sweep itself and of its folder; they are not passed to the jobs.
SWEEP_ONLY = ("sweep.", "hydra.sweep.", "hydra.run.", "hydra.sweeper.")


@dataclass(frozen=True)
class Interval:
    """An interval to search. low, high: its ends; log: whether the scale is logarithmic."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Axis:
    """One argument. line: its text; key: the dotted key or group; values: an override for each value.

    swept: whether it has several values or an interval. The values of an interval are its two ends.
    """

    line: str
    key: str
    values: list[str]
    swept: bool = False
    interval: Interval | None = None


def axes(composer: Composer[Any], arguments: Sequence[str]) -> list[Axis]:
    """The axes of the arguments, in their order. Raises UserError for an argument that a sweep cannot have."""
    return [_axis(override, composer.project) for override in composer.parse(arguments)]


def points(axes: Sequence[Axis]) -> Iterator[list[str]]:
    """Every combination of the values, as a list of overrides; the last argument changes fastest."""
    return map(list, itertools.product(*(axis.values for axis in axes)))


def is_passed_to_jobs(override: str) -> bool:
    """Whether the jobs of a sweep are given an override of its command line."""
    return not override.lstrip("+~").startswith(SWEEP_ONLY)


def _axis(override: Override, project: Project[Any]) -> Axis:
    line, key = str(override.input_line), override.key_or_group
    if not override.is_sweep_override():
        line = _absolute(line, override, project)
        return Axis(line, key, [line])
    if key.startswith(("sweep.", "hydra")):
        raise UserError(f"{line}: a setting of the whole sweep has one value")
    written = override.get_key_element()  # with + and the package
    values = override.value()
    if isinstance(values, IntervalSweep):
        if written != key:
            raise UserError(f"{line}: an interval is given without +")
        interval = _interval(line, values)
        return Axis(line, key, [f"{key}={_number(end)}" for end in (interval.low, interval.high)], True, interval)
    if getattr(values, "shuffle", False):
        raise UserError(f"{line}: cannot be shuffled, since jobs are identified by their numbers")
    overrides = [f"{written}={value}" for value in override.sweep_string_iterator()]
    if not overrides:
        raise UserError(f"{line}: there is nothing to sweep over")
    if key in project.path_keys:
        paths = [_absolute_path(value) for value in override.sweep_iterator()]
        overrides = [f"{written}={path}" for path in paths]
        line = f"{written}={','.join(paths)}"
    return Axis(line, written.lstrip("+"), overrides, True)


def _absolute(line: str, override: Override, project: Project[Any]) -> str:
    """The override with an absolute value if it is a path: `outputs/latest` will point to this sweep."""
    value = override.value()
    if override.key_or_group == "hydra.searchpath" and isinstance(value, list):
        paths = [str(path) if "pkg://" in str(path) else f"file://{_resolved(path)}" for path in value]
        return f"hydra.searchpath=[{','.join(map(quote_override, paths))}]"
    if override.key_or_group not in project.path_keys or not isinstance(value, str) or "${" in value:
        return line
    return f"{line.partition('=')[0]}={quote_override(str(_resolved(value)))}"


def _absolute_path(value: Any) -> str:
    """A swept path made absolute, in Hydra's override grammar; null stays null."""
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
    """A number as an override's value; an integer without a fraction, since integer keys accept no other."""
    return str(int(value)) if value.is_integer() else repr(value)
