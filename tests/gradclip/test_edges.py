"""Gradients and thresholds at the limits of floating-point ranges: finite, documented results."""

import math
from contextlib import suppress

import pytest
import torch
from torch import nn

from gradclip import (
    ClipByNorm,
    ClipByValue,
    ClipCheckError,
    Clipper,
    InvalidField,
    NoClip,
    NonFiniteGradientError,
    Normalize,
    Policy,
    SoftClip,
    functional,
)
from tests.gradclip.support import as_on_an_accelerator
from tests.support import exact_norm, with_gradients

SMALLEST = 2.0**-149  # of float32


@pytest.mark.parametrize("scope", ["model", "parameter", "unit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [SMALLEST, 2.0**-133, 1e-36, 1e-20])
def test_subnormal_gradients_are_normalised_without_eps(scope: str, dtype: torch.dtype, size: float) -> None:
    gradient = torch.full((1, 4), size, dtype=dtype)
    if not gradient.all():
        pytest.skip("smaller than the smallest number of the type")
    model = with_gradients([gradient])
    clipper = Clipper(model.named_parameters(), Normalize(max=1.0, eps=0.0, scope=scope))
    clipper.clip()
    clipper.check()
    assert exact_norm([model["p0"].grad]) == pytest.approx(1.0, rel=4e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("scope", ["model", "parameter", "unit"])
def test_on_an_accelerator_subnormal_gradients_stay_finite_and_below_max(
    scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale is limited to float32's range: a norm of 4e-45 becomes 1e-6 instead of 1."""
    as_on_an_accelerator(monkeypatch)
    model = with_gradients([torch.full((1, 4), SMALLEST)])
    clipper = Clipper(model.named_parameters(), Normalize(max=1.0, eps=0.0, scope=scope))
    report = clipper.clip()
    assert 0 < exact_norm([model["p0"].grad]) <= 1
    assert report.after.item() == pytest.approx(exact_norm([model["p0"].grad]), rel=1e-6)
    clipper.check()


@pytest.mark.parametrize("policy", [ClipByNorm(max=1e-30), Normalize(max=1e-30), SoftClip(max=1e-30)])
@pytest.mark.parametrize("size", [1e30, 3e38])
def test_scales_below_float32(policy: Policy, size: float) -> None:
    model = with_gradients([torch.full((2, 2), size)])
    Clipper(model.named_parameters(), policy).clip()
    assert exact_norm([model["p0"].grad]) == pytest.approx(1e-30, rel=1e-5)


@pytest.mark.parametrize("mode", ["error", "drop", "zero", "keep"])
def test_a_total_beyond_float64_is_infinite_and_its_gradients_become_zero(mode: str) -> None:
    """Each element is finite, so every mode accepts it, and max / inf is 0. By parameter all norms are finite."""
    gradients = [torch.tensor([1.5e308], dtype=torch.float64) for _ in range(2)]
    model = with_gradients(gradients)
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0, nonfinite=mode))
    report = clipper.clip()
    clipper.check()
    assert (report.before.item(), report.after.item(), report.dropped) == (math.inf, 0.0, False)
    assert all(parameter.grad.item() == 0 for parameter in model.values())


@pytest.mark.parametrize("policy", ["norm", "value", "rms", "drop"])
def test_a_threshold_of_zero_is_refused(policy: str) -> None:
    with pytest.raises(InvalidField, match=r"max=0.*must be a number above 0"):
        Policy.options[policy](max=0)


@pytest.mark.parametrize("values", [[3.0, -4.0], [0.0, 0.0], [1e-45, 3e38]])
def test_the_functions_accept_a_threshold_of_zero(values: list[float]) -> None:
    for clip in (functional.clip_grad_norm_, functional.clip_grad_value_):
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor(values)
        clip(weight, 0)
        assert weight.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_an_infinite_bound_limits_no_element(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    model = with_gradients([torch.tensor([largest, -largest, 1.0], dtype=dtype)])
    clipper = Clipper(model.named_parameters(), ClipByValue(max=math.inf))
    report = clipper.clip()
    clipper.check()
    assert model["p0"].grad.tolist() == [largest, -largest, 1.0]
    assert (report.fraction.item(), report.limits.tolist()) == (0.0, [math.inf])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("mode", ["error", "drop", "zero"])
def test_check_raises_for_a_nonfinite_gradient_except_under_keep(mode: str, bad: float) -> None:
    model = with_gradients([torch.tensor([3.0, 4.0])])
    clipper = Clipper(model.named_parameters(), NoClip(nonfinite=mode))
    clipper.clip()
    model["p0"].grad[0] = bad
    with pytest.raises(ClipCheckError, match="p0: its gradient"):
        clipper.check()
    model["p0"].grad[0] = bad
    keeping = Clipper(model.named_parameters(), NoClip(nonfinite="keep"))
    keeping.clip()
    keeping.check()


def test_the_first_step_may_be_nonfinite(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_an_accelerator(monkeypatch)
    model = with_gradients([torch.tensor([math.nan]), torch.ones(1)])
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    clipper.clip()
    model["p0"].grad, model["p1"].grad = torch.ones(1), torch.tensor([math.inf])
    clipper.clip()  # is not the first
    with pytest.raises(NonFiniteGradientError, match=r"gradient in p0 at step 1$"):
        clipper.raise_if_nonfinite()


@pytest.mark.parametrize(
    ("count", "named"), [(3, "p0, p1, p2"), (4, "p0, p1, p2 and 1 more"), (9, "p0, p1, p2 and 6 more")]
)
def test_three_nonfinite_parameters_are_named(count: int, named: str) -> None:
    model = with_gradients([torch.tensor([math.nan])] * count)
    with pytest.raises(NonFiniteGradientError, match=rf"^non-finite gradient in {named}$"):
        Clipper(model.named_parameters(), ClipByNorm(max=1.0)).clip()


def test_a_duplicate_name_is_in_the_message() -> None:
    named = [(name, nn.Parameter(torch.zeros(1))) for name in ("first", "second", "third", "second")]
    with pytest.raises(ValueError, match="two parameters have the name second;"):
        Clipper(named, NoClip())


def test_a_threshold_of_hundreds_of_digits_is_refused() -> None:
    with pytest.raises(InvalidField, match="must be a number above 0"):
        ClipByNorm(max=10**400)


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("mode", ["error", "drop", "zero"])
def test_a_schedule_advances_at_a_nonfinite_step(mode: str, on_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on_host:
        as_on_an_accelerator(monkeypatch)
    model = with_gradients([torch.ones(1)])
    policy = ClipByNorm(max=3.0, schedule="linear", final=1.0, over=3, nonfinite=mode)
    clipper = Clipper(model.named_parameters(), policy)
    limits = []
    for value in (9.0, math.nan, 9.0):
        model["p0"].grad = torch.tensor([value])
        with suppress(NonFiniteGradientError):
            limits.append(clipper.clip().limits.tolist())
    assert limits[0] == [3.0]
    assert limits[-1] == [1.0]
