"""Ranges in a field's metadata: enforced for plain Python use, and said in words."""

import math
from dataclasses import dataclass

import pytest

from gradclip import ClipByNorm, ClipByValue, InvalidField, NoClip, Policy
from gradclip.fields import Checked, Option, allowed, key


@dataclass(kw_only=True)
class Sample(Checked):
    rate: float = key("rate", default=0.5, least=0, below=1)
    count: int | None = key("count", default=None, above=0)
    sizes: list[int] = key("sizes", default_factory=list, least=1)
    kind: str = key("kind", default="a", choices=("a", "b", "c"))
    on: bool = key("on", default=True)
    wide: float = key("wide", default=math.inf, infinite=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", 0), ("rate", 0.999), ("count", 1), ("count", None), ("sizes", [1, 2]), ("kind", "c"), ("on", False),
     ("wide", -math.inf), ("rate", 0.0)],
)  # fmt: skip
def test_takes(field: str, value: object) -> None:
    assert getattr(Sample(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rate", 1.0, "a number of at least 0 and below 1"),
        ("rate", -1e-9, "a number of at least 0 and below 1"),
        ("rate", math.nan, "a number of at least 0 and below 1"),
        ("rate", True, "a number of at least 0 and below 1"),
        ("rate", None, "a number of at least 0 and below 1"),
        ("rate", "0.5", "a number of at least 0 and below 1"),
        ("count", 0, "a whole number above 0, or null"),
        ("count", 1.0, "a whole number above 0, or null"),
        ("count", math.inf, "a whole number above 0, or null"),
        ("sizes", [1, 0], "a list of numbers of at least 1"),
        ("sizes", 3, "a list of numbers of at least 1"),
        ("kind", "d", "a, b or c"),
        ("on", 1, "true or false"),
        ("wide", math.nan, "a number"),
    ],
)
def test_refuses_in_words(field: str, value: object, words: str) -> None:
    with pytest.raises(InvalidField) as error:
        Sample(**{field: value})
    assert (error.value.key, error.value.allowed) == (field, words)
    assert allowed(Sample, field) == words


@pytest.mark.parametrize("value", [0, -1.0, math.nan, True, None, "1", -math.inf])
@pytest.mark.parametrize("policy", [ClipByNorm, ClipByValue])
def test_a_threshold_is_a_number_above_zero(policy: type[Policy], value: object) -> None:
    """torch takes all of these: a negative norm turns the gradients round, nan makes them nan."""
    with pytest.raises(InvalidField, match="max"):
        policy(max=value)


def test_an_infinite_threshold_only_measures() -> None:
    assert ClipByNorm(max=math.inf).max == math.inf


def test_no_clipping_is_one_and_the_same_under_every_threshold() -> None:
    assert NoClip(max=0.5) == NoClip(max=7.0) == NoClip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"scope": "rows"}, "scope=rows: must be model, group, layer, parameter or unit"),
     ({"nonfinite": "no"}, "error, drop, zero or keep"),
     ({"norm_type": 0}, "norm_type=0: must be a number of at least 0.1"),
     ({"name": "value"}, "name=value: must be norm")],
)  # fmt: skip
def test_policies_refuse_what_they_cannot_do(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        ClipByNorm(max=1.0, **arguments)


def test_an_option_joins_its_group_by_its_name() -> None:
    @dataclass(kw_only=True)
    class Group(Option):
        pass

    @dataclass(kw_only=True)
    class One(Group):
        name: str = "one"

    assert Group.options == {"one": One}
    assert "one" not in Policy.options
