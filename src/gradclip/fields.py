"""Dataclass fields that carry their own range and one line of help.

The range stands in the field's metadata and nowhere else: `Checked.__post_init__` enforces it, and
error messages and a command line's help read it.
"""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

from gradclip.errors import InvalidField

NUMBERS = {int: "a whole number", float: "a number"}


class Bound(NamedTuple):
    """One side of a range: how a message says it, and the comparison that it stands for."""

    words: str
    holds: Callable[[float, float], bool]


BOUNDS = {
    "gt": Bound("above", operator.gt),
    "ge": Bound("of at least", operator.ge),
    "lt": Bound("below", operator.lt),
    "le": Bound("at most", operator.le),
}


def field(
    help: str,
    *,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    infinite: bool = False,
    choices: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """A dataclass field with its help and its range; without a default the field is required.

    `gt` and `lt` are exclusive bounds, `ge` and `le` inclusive ones. Infinity is refused
    unless `infinite`; nan always. metadata: further entries for the field's own, which nothing here reads.
    """
    bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    entries = {
        **(metadata or {}),
        "help": help,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
        "infinite": infinite,
        "choices": choices,
    }
    return dataclasses.field(default=default, default_factory=default_factory, metadata=entries)


@dataclass(kw_only=True)
class Checked:
    """Base of every dataclass whose fields are made by `field`: a value out of range raises `InvalidField`.

    removed: fields that it once had, each with the advice that a message gives to those who still set it.
    """

    removed: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), field_type(type(self), field.name)
            if not allows(kind, field.metadata, value):
                raise InvalidField(field.name, value, allowed(type(self), field.name))
            if _without_none(kind) is float and isinstance(value, int):
                setattr(self, field.name, float(value))


@dataclass(kw_only=True)
class Option(Checked):
    """Base of a group of alternatives: each subclass with a `name` is one of them, and joins `options` by itself."""

    name: str = field("the option's own name, which says what a saved configuration ran", default="")

    options: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls) -> None:
        if Option in cls.__bases__:
            cls.options = {}  # a new group
        elif name := cls.__dict__.get("name"):
            cls.options[name] = cls

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != type(self).name:
            raise InvalidField("name", self.name, f"{type(self).name}, which the option itself sets")


@cache
def field_types(owner: type) -> dict[str, Any]:
    """The type of every field of a dataclass, by name."""
    return typing.get_type_hints(owner)


def field_type(owner: type, name: str) -> Any:
    """The type of one field of a dataclass."""
    return field_types(owner)[name]


def allows(kind: Any, metadata: typing.Mapping[str, Any], value: Any) -> bool:
    """Whether a field of this type and metadata may hold the value."""
    if value is None:
        return type(None) in typing.get_args(kind)
    base = _without_none(kind)
    if base in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int if base is int else (int, float)):
            return False
        return _within(metadata, value)
    if base in (str, bool):
        choices = metadata.get("choices")
        return isinstance(value, base) and (not choices or value in choices)
    if typing.get_origin(base) is list:
        (item,) = typing.get_args(base)
        return isinstance(value, list) and all(allows(item, metadata, each) for each in value)
    return not isinstance(base, type) or isinstance(value, base)


def _within(metadata: typing.Mapping[str, Any], value: float) -> bool:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
    if not finite and (math.isnan(value) or not metadata.get("infinite")):
        return False
    return all(BOUNDS[name].holds(value, bound) for name, bound in metadata.get("bounds", {}).items())


def allowed(owner: type, name: str) -> str:
    """What a field may hold, in words: 'a number above 0, or null'."""
    (field,) = (f for f in dataclasses.fields(owner) if f.name == name)
    kind = field_type(owner, name)
    base = _without_none(kind)
    if choices := field.metadata.get("choices"):
        words = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
    elif typing.get_origin(base) is list:
        (item,) = typing.get_args(base)
        words = f"a list of {'patterns' if item is str else 'numbers'}"
        words += _range(field.metadata)
    elif base in NUMBERS:
        words = NUMBERS[base] + _range(field.metadata)
    else:
        words = {bool: "true or false", str: "text"}.get(base, f"given by its keys, {name}.…")
    return words + (", or null" if kind is not base else "")


def _range(metadata: typing.Mapping[str, Any]) -> str:
    parts = [f"{BOUNDS[name].words} {bound:,}" for name, bound in metadata.get("bounds", {}).items()]
    return f" {' and '.join(parts)}" if parts else ""


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (arg for arg in typing.get_args(kind) if arg is not type(None))
    return kind
