"""Dataclass fields that carry their own range and one line of help.

The range is stored in the field's metadata: `Checked.__post_init__` enforces it, and error messages and the
command line's help read it.
"""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from gradclip.errors import InvalidField

T = TypeVar("T")
NUMBERS = {int: "a whole number", float: "a number"}


class Bound(NamedTuple):
    """One side of a range: its words in a message, and its comparison of a value with the bound."""

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
    """Makes a dataclass field with help and a range; without a default the field is required.

    gt, lt: exclusive bounds; ge, le: inclusive bounds. infinite: whether infinity is allowed; nan never is.
    metadata: further entries of the field's metadata, for the caller's own use.
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


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
def checked_dataclass(cls: type[T]) -> type[T]:
    """Makes a dataclass of keyword-only fields; type checkers then know that a `field` without default is required."""
    return dataclasses.dataclass(kw_only=True)(cls)


@checked_dataclass
class Checked:
    """Base of every dataclass whose fields are made by `field`: a value out of range raises `InvalidField`.

    removed: names of fields that the class no longer has, each with advice for the message to whoever sets it.
    """

    removed: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, annotation = getattr(self, field.name), field_type(type(self), field.name)
            if not allows(annotation, field.metadata, value):
                raise InvalidField(field.name, value, allowed(type(self), field.name))
            if _without_none(annotation) is float and isinstance(value, int):
                setattr(self, field.name, float(value))


@checked_dataclass
class Option(Checked):
    """Base of a group of alternatives: each subclass with a `name` is registered in the group's `options`."""

    name: str = field("the option's own name, by which a saved configuration is read", default="")

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


def allows(annotation: Any, metadata: typing.Mapping[str, Any], value: Any) -> bool:
    """Whether a field of the type and metadata may hold the value."""
    if value is None:
        return type(None) in typing.get_args(annotation)
    base = _without_none(annotation)
    if base in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int if base is int else (int, float)):
            return False
        return _within(metadata, value)
    if base in (str, bool):
        choices = metadata.get("choices")
        return isinstance(value, base) and (not choices or value in choices)
    if typing.get_origin(base) is list:
        (item,) = typing.get_args(base)
        return isinstance(value, list) and all(allows(item, metadata, element) for element in value)
    return not isinstance(base, type) or isinstance(value, base)


def _within(metadata: typing.Mapping[str, Any], value: float) -> bool:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int of hundreds of digits
        return False
    if not finite and (math.isnan(value) or not metadata.get("infinite")):
        return False
    return all(BOUNDS[name].holds(value, bound) for name, bound in metadata.get("bounds", {}).items())


def allowed(owner: type, name: str) -> str:
    """Describes the values that a field may hold, such as 'a number above 0, or null'."""
    (field,) = (f for f in dataclasses.fields(owner) if f.name == name)
    annotation = field_type(owner, name)
    base = _without_none(annotation)
    if choices := field.metadata.get("choices"):
        words = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
    elif typing.get_origin(base) is list:
        (item,) = typing.get_args(base)
        words = f"a list of {'patterns' if item is str else 'numbers'}"
        words += _range(field.metadata) + (f", such as {name}=[a,b]" if item is str else "")
    elif base in NUMBERS:
        words = NUMBERS[base] + _range(field.metadata) + (", or inf" if field.metadata.get("infinite") else "")
    else:
        words = {bool: "true or false", str: "text"}.get(base, f"given by its keys, {name}.…")
    return words + (", or null" if annotation is not base else "")


def _range(metadata: typing.Mapping[str, Any]) -> str:
    parts = [f"{BOUNDS[name].words} {bound:,}" for name, bound in metadata.get("bounds", {}).items()]
    return f" {' and '.join(parts)}" if parts else ""


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = (arg for arg in typing.get_args(annotation) if arg is not type(None))
    return annotation
