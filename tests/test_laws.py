"""What must hold for every file in conf/clip, at every scope it takes, in every precision.

Inputs are drawn by hypothesis; every figure is measured again in float64 by NumPy, outside the product.
"""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradclip import ClipByNorm, Clipper, Policy
from tests.support import exact, exact_norm, policies, policy_id, with_gradients

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EVERY = pytest.mark.parametrize("policy", policies(), ids=policy_id)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
EXAMPLES = settings(max_examples=40, deadline=None)


@st.composite
def gradients(draw: st.DrawFn) -> list[tuple[tuple[int, ...], str, float]]:
    """Shapes, kinds and magnitudes of a model's gradients."""
    shape = st.sampled_from([(), (1,), (7,), (3, 5), (40, 30), (2, 3, 3, 3), (0,), (4, 0)])
    kind = st.sampled_from(["dense", "dense", "dense", "none", "zero", "transposed", "equal"])
    return draw(st.lists(st.tuples(shape, kind, st.sampled_from([-30.0, -3.0, 0.0, 0.0, 1.0, 30.0])), min_size=1,
                         max_size=8))  # fmt: skip


def made(specification: list[tuple[tuple[int, ...], str, float]], dtype: torch.dtype) -> nn.ParameterDict:
    random = torch.Generator().manual_seed(len(specification))
    found: list[Tensor | None] = []
    for shape, kind, exponent in specification:
        if dtype == torch.float16:
            exponent = min(exponent, 1.0)  # its largest number is 65504
        values = torch.randn(shape, generator=random, dtype=torch.float64) * 10.0**exponent
        values = values.zero_() if kind == "zero" else torch.ones_like(values) if kind == "equal" else values
        gradient = values.to(dtype)
        if kind == "transposed" and gradient.dim() == 2:
            gradient = gradient.t().contiguous().t()
        found.append(None if kind == "none" else gradient)
    return with_gradients(found)


def grads(model: nn.ParameterDict) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in model.values()]


def rounding(dtype: torch.dtype) -> float:
    """Each element of a product is rounded by half an eps, a factor in float32 besides; equal roundings add up."""
    return 0.51 * torch.finfo(dtype).eps if dtype.itemsize < 4 else 4 * torch.finfo(dtype).eps


def underflow(dtype: torch.dtype, count: int) -> float:
    """What rounding to the type's smallest number may add up to in a norm of so many elements."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps * math.sqrt(max(count, 1))


def size(model: nn.ParameterDict) -> int:
    return sum(p.numel() for p in model.values())


@EVERY
@DTYPE
@EXAMPLES
@given(specification=gradients(), threshold=st.sampled_from([1e-3, 0.1, 1.0, 50.0]))
def test_limit(policy: Policy, dtype: torch.dtype, specification, threshold: float) -> None:  # type: ignore[no-untyped-def]
    model = made(specification, dtype)
    policy = replace(policy, max=threshold)
    report = Clipper(model.named_parameters(), policy).clip()
    slack = 1 + rounding(dtype)
    if policy.kind == "elementwise":
        for gradient in grads(model):
            if gradient is not None and gradient.numel():
                assert abs(exact(gradient)).max() <= threshold * slack
    else:
        (limit,) = report.limits.tolist()
        assert exact_norm(grads(model), policy.norm_type) <= limit * slack + underflow(dtype, size(model))
        assert limit == (math.inf if policy.name == "none" else threshold)


@EVERY
@DTYPE
@EXAMPLES
@given(specification=gradients())
def test_within_the_limit_nothing_changes_by_a_bit(policy: Policy, dtype: torch.dtype, specification) -> None:  # type: ignore[no-untyped-def]
    model = made(specification, dtype)
    before = grads(model)
    report = Clipper(model.named_parameters(), replace(policy, max=1e38)).clip()
    for old, new in zip(before, grads(model), strict=True):
        assert (old is None and new is None) or (old is not None and new is not None and torch.equal(old, new))
    assert report.fraction.item() == 0
    assert report.before.item() == report.after.item()


@EVERY
@DTYPE
@EXAMPLES
@given(specification=gradients())
def test_clipping_again_changes_nothing_but_roundings(policy: Policy, dtype: torch.dtype, specification) -> None:  # type: ignore[no-untyped-def]
    model = made(specification, dtype)
    clipper = Clipper(model.named_parameters(), replace(policy, max=0.1))
    clipper.clip()
    once = grads(model)
    clipper.clip()
    for old, new in zip(once, grads(model), strict=True):
        if old is not None and new is not None:
            tolerance = underflow(dtype, 1)
            torch.testing.assert_close(new, old, rtol=rounding(dtype), atol=tolerance)


@EVERY
@DTYPE
@EXAMPLES
@given(specification=gradients())
def test_direction(policy: Policy, dtype: torch.dtype, specification) -> None:  # type: ignore[no-untyped-def]
    model = made(specification, dtype)
    before = grads(model)
    Clipper(model.named_parameters(), replace(policy, max=0.1)).clip()
    after = grads(model)
    scale = None
    for old, new in zip(before, after, strict=True):
        if old is None or new is None:
            continue
        old_values, new_values = exact(old), exact(new)
        assert ((old_values * new_values) >= 0).all()  # no sign turns
        if policy.kind == "elementwise":
            expected = old_values.clip(-0.1, 0.1)
        else:
            norm = exact_norm(before, policy.norm_type)
            scale = 1.0 if policy.name == "none" or norm <= 0.1 else 0.1 / norm
            expected = old_values * scale
        close = abs(new_values - expected) <= rounding(dtype) * abs(expected) + underflow(dtype, 1)
        assert close.all()


@EVERY
@EXAMPLES
@given(specification=gradients())
def test_the_order_of_parameters_does_not_matter(policy: Policy, specification) -> None:  # type: ignore[no-untyped-def]
    model = made(specification, torch.float64)
    twin = deepcopy(model)
    for name in model:
        twin[name].grad = None if model[name].grad is None else model[name].grad.clone()
    policy = replace(policy, max=0.1)
    one = Clipper(model.named_parameters(), policy).clip()
    other = Clipper(reversed(list(twin.named_parameters())), policy).clip()
    assert one.before.item() == pytest.approx(other.before.item(), rel=1e-12)
    assert one.after.item() == pytest.approx(other.after.item(), rel=1e-12)
    for name, (before, after) in one.by_parameter().items():
        assert other.by_parameter()[name] == pytest.approx((before, after), rel=1e-12)


@EVERY
@DTYPE
@EXAMPLES
@given(specification=gradients(), threshold=st.sampled_from([1e-3, 0.1, 1.0]))
def test_truth(policy: Policy, dtype: torch.dtype, specification, threshold: float) -> None:  # type: ignore[no-untyped-def]
    model = made(specification, dtype)
    before = grads(model)
    report = Clipper(model.named_parameters(), replace(policy, max=threshold)).clip()
    after = grads(model)
    floor = underflow(dtype, size(model))
    assert report.before.item() == pytest.approx(exact_norm(before), rel=1e-6, abs=floor)
    assert report.after.item() == pytest.approx(exact_norm(after), rel=1e-6, abs=floor)
    for name, (old, new) in report.by_parameter().items():
        place = int(name[1:])
        assert old == pytest.approx(exact_norm([before[place]]), rel=1e-6, abs=floor)
        assert new == pytest.approx(exact_norm([after[place]]), rel=1e-6, abs=floor)


@EVERY
@DTYPE
@EXAMPLES
@given(specification=gradients(), threshold=st.sampled_from([1e-3, 0.1, 1.0]))
def test_check_passes_what_clip_left(policy: Policy, dtype: torch.dtype, specification, threshold: float) -> None:  # type: ignore[no-untyped-def]
    clipper = Clipper(made(specification, dtype).named_parameters(), replace(policy, max=threshold))
    clipper.clip()
    clipper.check()


@EVERY
def test_thousands_of_parameters(policy: Policy) -> None:
    random = torch.Generator().manual_seed(0)
    model = with_gradients([torch.randn(3, 2, generator=random) for _ in range(3000)])
    before = grads(model)
    report = Clipper(model.named_parameters(), replace(policy, max=0.5)).clip()
    assert report.before.item() == pytest.approx(exact_norm(before), rel=1e-6)
    assert report.after.item() == pytest.approx(exact_norm(grads(model)), rel=1e-6)


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_zero_sets_bad_elements_to_zero_before_measuring(policy: Policy, bad: float) -> None:
    model = with_gradients([torch.tensor([bad, 3.0]), torch.tensor([4.0])])
    report = Clipper(model.named_parameters(), replace(policy, max=1e3, nonfinite="zero")).clip()
    assert report.before.item() == pytest.approx(5.0)
    assert [g.tolist() for g in grads(model) if g is not None] == [[0.0, 3.0], [4.0]]


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_drop_leaves_the_step_out(policy: Policy, bad: float) -> None:
    model = with_gradients([torch.tensor([bad, 3.0])])
    clipper = Clipper(model.named_parameters(), replace(policy, max=1.0, nonfinite="drop"))
    assert clipper.clip().dropped
    model["p0"].grad = torch.tensor([0.3, 0.4])
    assert not clipper.clip().dropped


@pytest.mark.parametrize("exponent", [38, 30, 22])
def test_the_largest_float32_gradients_are_scaled_and_not_erased(exponent: int) -> None:
    """torch's clip_grad_norm_ sets all of these to 0: their norm overflows float32."""
    model = with_gradients([torch.full((1000,), 3.0 * 10.0**exponent)] * 4)
    Clipper(model.named_parameters(), ClipByNorm(max=1e-3)).clip()
    assert exact_norm(grads(model)) == pytest.approx(1e-3, rel=1e-6)
