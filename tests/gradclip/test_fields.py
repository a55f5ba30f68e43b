"""Ranges in a field's metadata: enforced in Python, and described in messages."""

import dataclasses
import math
from dataclasses import dataclass

import pytest

from gradclip import (
    AGC,
    AdaGC,
    AutoClip,
    BlockPolicy,
    Chain,
    ClipByNorm,
    ClipByRMS,
    ClipByValue,
    DropStep,
    EMAClip,
    InvalidField,
    LimitPolicy,
    NoClip,
    Normalize,
    Policy,
    QuantileClip,
    SoftClip,
    SpikeClip,
    ZClip,
)
from gradclip.fields import Checked, Option, allowed, field


@dataclass(kw_only=True)
class Sample(Checked):
    rate: float = field("rate", default=0.5, ge=0, lt=1)
    count: int | None = field("count", default=None, gt=0)
    sizes: list[int] = field("sizes", default_factory=list, ge=1)
    kind: str = field("kind", default="a", choices=("a", "b", "c"))
    on: bool = field("on", default=True)
    wide: float = field("wide", default=math.inf, infinite=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate", 0), ("rate", 0.999), ("count", 1), ("count", None), ("sizes", [1, 2]), ("kind", "c"), ("on", False),
     ("wide", -math.inf), ("rate", 0.0)],
)  # fmt: skip
def test_values_in_the_range_are_accepted(field: str, value: object) -> None:
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
        ("wide", math.nan, "a number, or inf"),
    ],
)
def test_values_out_of_the_range_are_refused_with_a_description(field: str, value: object, words: str) -> None:
    with pytest.raises(InvalidField) as error:
        Sample(**{field: value})
    assert (error.value.key, error.value.allowed) == (field, words)
    assert allowed(Sample, field) == words


@pytest.mark.parametrize("value", [0, -1.0, math.nan, True, None, "1", -math.inf])
@pytest.mark.parametrize("policy", [ClipByNorm, ClipByValue])
def test_a_threshold_is_a_number_above_zero(policy: type[Policy], value: object) -> None:
    """torch accepts all of these: a negative max_norm flips the gradients' sign, nan makes them nan."""
    with pytest.raises(InvalidField, match="max"):
        policy(max=value)


def test_an_infinite_threshold_only_measures() -> None:
    assert ClipByNorm(max=math.inf).max == math.inf


BLOCKS = {"include", "exclude", "scope", "norm_type"}
LIMITS = {"max", "schedule", "final", "over"}


def names_of(policy: type[Policy]) -> set[str]:
    return {field.name for field in dataclasses.fields(policy)}


def test_no_policy_has_a_field_that_does_nothing() -> None:
    """`none` has no threshold, and in a chain the links alone say which gradients they limit, and to what."""
    assert names_of(Policy) == {"name", "nonfinite"}
    assert names_of(Chain) == {"name", "nonfinite", "links"}
    assert names_of(NoClip) == names_of(BlockPolicy) == {"name", "nonfinite"} | BLOCKS
    others = [policy for name, policy in Policy.options.items() if name not in ("none", "chain")]
    assert all(issubclass(policy, LimitPolicy) and names_of(policy) >= BLOCKS | LIMITS for policy in others)


@pytest.mark.parametrize("name", ["none", "chain"])
def test_a_field_that_an_option_no_longer_has_is_answered_with_advice(name: str) -> None:
    policy = Policy.options[name]
    assert LIMITS <= policy.removed.keys() <= LIMITS | BLOCKS
    assert not policy.removed.keys() & names_of(policy)


@pytest.mark.parametrize("given", [{"final": 0.1}, {"over": 5}, {"final": 0.1, "over": 5}])
def test_a_schedule_that_is_not_followed_is_refused(given: dict[str, float]) -> None:
    """A constant `max` reaches no `final`, and takes no steps to get there."""
    with pytest.raises(InvalidField, match=r"(final=0.1|over=5): must be null unless .*schedule is linear or cosine"):
        ClipByNorm(max=1.0, **given)
    ClipByNorm(max=1.0, schedule="linear", final=0.1, over=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"scope": "rows"}, "scope=rows: must be model, group, layer, parameter or unit"),
     ({"nonfinite": "no"}, "error, drop, zero or keep"),
     ({"norm_type": 0}, "norm_type=0: must be a number of at least 0.1"),
     ({"name": "value"}, "name=value: must be norm")],
)  # fmt: skip
def test_policies_refuse_invalid_values(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        ClipByNorm(max=1.0, **arguments)


def test_an_option_is_registered_in_its_group_by_its_name() -> None:
    @dataclass(kw_only=True)
    class Group(Option):
        pass

    @dataclass(kw_only=True)
    class One(Group):
        name: str = "one"

    assert Group.options == {"one": One}
    assert "one" not in Policy.options


UNIT = ([0, 0.5, 0.999], [1, 1.5, -1e-9])
POSITIVE = ([1e-9, 0.5, 7], [0, -1])
EDGES = [
    (AGC, "norm_type", [2], [1.9, 2.1, 3, math.inf]),
    (AGC, "ratio", *POSITIVE),
    (AGC, "eps", [0, 1e-9, 0.5], [-1e-9]),
    (ClipByRMS, "norm_type", [2], [1.9, 2.1, 3, math.inf]),
    (ClipByRMS, "max", [1e-9, math.inf], [0]),
    (ClipByNorm, "max", [1e-9, math.inf], [0]),
    (ClipByNorm, "norm_type", [0.1, 1, math.inf], [0.09, 0]),
    (ClipByNorm, "over", [None], [0]),
    (ClipByNorm, "final", [None], [0]),
    (ClipByValue, "max", [1e-9, math.inf], [0]),
    (ClipByValue, "norm_type", [math.inf], [2, 1e300]),
    (DropStep, "max", [1e-9, math.inf], [0]),
    (Normalize, "max", [1e-9, 0.5], [0, math.inf]),
    (Normalize, "eps", [0, 0.5], [-1e-9]),
    (SoftClip, "max", [1e-9, 0.5], [0, math.inf]),
    (AutoClip, "percentile", [0, 0.5, 100], [-1e-9, 100.1]),
    (AutoClip, "window", [0, 1], [-1]),
    (SpikeClip, "max", [1e-9, None, math.inf], [0]),
    (AutoClip, "max", [1e-9, None, math.inf], [0]),
    (ZClip, "max", [1e-9, None, math.inf], [0]),
    (ZClip, "alpha", *UNIT),
    (ZClip, "threshold", *POSITIVE),
    (ZClip, "warmup", [1, 2], [0]),
    (ZClip, "eps", [0, 0.5], [-1e-9]),
    (AdaGC, "ratio", *POSITIVE),
    (AdaGC, "beta", *UNIT),
    (AdaGC, "warmup", [0, 1], [-1]),
    (AdaGC, "warmup_max", [1e-9, 0.5, math.inf], [0]),
    (EMAClip, "ratio", *POSITIVE),
    (EMAClip, "beta", *UNIT),
    (EMAClip, "warmup", [1, 2], [0]),
    (QuantileClip, "target", [0, 0.5, 1], [-1e-9, 1.001]),
    (QuantileClip, "lr", *POSITIVE),
    (QuantileClip, "initial", [1e-9, 0.5, 7], [0]),
    (QuantileClip, "lower", [0, 0.5, 1], [-1e-9, 1.5]),
    (QuantileClip, "upper", [1, 7, math.inf], [0.5, 0]),
    (SpikeClip, "theta", *POSITIVE),
    (SpikeClip, "beta", *UNIT),
    (SpikeClip, "warmup", [0, 1], [-1]),
]


@pytest.mark.parametrize(("policy", "field", "taken", "refused"), EDGES, ids=lambda value: getattr(value, "name", None))
def test_the_edges_of_every_range(policy: type[Policy], field: str, taken: list[object], refused: list[object]) -> None:
    needed = {} if policy.name not in ("norm", "value", "rms", "drop") or field == "max" else {"max": 1.0}
    for value in taken:
        policy(**needed, **{field: value})
    for value in refused:
        with pytest.raises(InvalidField):
            policy(**needed, **{field: value})


DEFAULTS = {
    "agc": {"ratio": 0.01, "eps": 1e-3, "scope": "unit", "max": None},
    "autoclip": {"percentile": 10.0, "window": 1000, "scope": "model", "max": None},
    "zclip": {"alpha": 0.97, "threshold": 2.5, "mode": "reciprocal", "warmup": 25, "eps": 1e-6, "max": 1.0},
    "adagc": {"ratio": 1.05, "beta": 0.98, "warmup": 100, "warmup_max": 1.0, "scope": "parameter", "max": None},
    "ema": {"ratio": 2.0, "beta": 0.99, "warmup": 100, "scope": "parameter", "max": None},
    "quantile": {"target": 0.5, "lr": 0.2, "initial": 1.0, "lower": 0.0, "upper": math.inf, "max": None},
    "normalize": {"max": 1.0, "eps": 1e-6, "scope": "model"},
    "soft": {"max": 1.0, "scope": "model"},
    "spike": {"theta": 5000.0, "beta": 0.999, "warmup": 100, "scope": "element"},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_the_published_ones(name: str) -> None:
    policy = Policy.options[name]()
    assert {field: getattr(policy, field) for field in DEFAULTS[name]} == DEFAULTS[name]
