"""What PyTorch's tests check of its clipping functions, in one process. For several processes see test_processes.py.

Sections: nn is test/test_nn.py, cpp is test/cpp/api/nn_utils.cpp, fsdp1 is test/distributed/fsdp/
test_fsdp_clip_grad_norm_.py, amp is test/test_torch.py.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import Parameter

from gradclip import InvalidField, clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from tests.gradclip.ported.behaviours import behaviour, leaf, norm, values

NORM_TYPES = [0.5, 1.5, 2, 4, "inf"]
WIDE = (np.arange(100.0) - 50) / 5
RISING = np.arange(1.0, 101.0)
FLOAT64 = "the norm is in float64, whatever the gradients' dtype, since it may exceed their range"


def layer(weight: ArrayLike, bias: list[float] | None) -> list[Parameter]:
    """A weight of 10 by 10 and a bias of 10, with gradients; the bias has none if None."""
    first = leaf(np.reshape(weight, (10, 10)).tolist())
    return [first, Parameter(torch.zeros(10)) if bias is None else leaf(bias)]


def large() -> list[Parameter]:
    return layer(RISING, [0.001] * 10)


def small() -> list[Parameter]:
    """Gradients whose norm is below 2 in all of NORM_TYPES."""
    return layer(np.random.default_rng(0).random(100) / 10000, [0.002] * 10)


def with_total_norm(parameters: Sequence[Parameter], max_norm: float, norm_type: float, foreach: bool | None) -> Tensor:
    """Clips as clip_grad_norm_ does, by the two functions that measure and scale."""
    total = get_total_norm([p.grad for p in parameters if p.grad is not None], norm_type, foreach=foreach)
    clip_grads_with_norm_(parameters, max_norm, total, foreach=foreach)
    return total


def in_one_call(parameters: Sequence[Parameter], max_norm: float, norm_type: float, foreach: bool | None) -> Tensor:
    return clip_grad_norm_(parameters, max_norm, norm_type, foreach=foreach)


HOW = pytest.mark.parametrize("how", [in_one_call, with_total_norm])
FOREACH = pytest.mark.parametrize("foreach", [None, False, True])
How = Callable[[Sequence[Parameter], float, float, bool | None], Tensor]


# -- clip_grad_value_


@behaviour("torch", "nn.1", "test_clip_grad_value", "no element is above the limit")
@behaviour("torch", "nn.2", "test_clip_grad_value", "no element is below the negative limit")
@behaviour("torch", "nn.3", "test_clip_grad_value", "a parameter without a gradient is skipped, the others are clipped")
@behaviour("torch", "cpp.8", "ClipGradValue", "the same bounds, with and without the second gradient")
@pytest.mark.parametrize("bias", [[2.0] * 10, None], ids=["bias", "no bias"])
@FOREACH
def test_values_are_clamped(bias: list[float] | None, foreach: bool | None) -> None:
    parameters = layer(WIDE, bias)
    clip_grad_value_(parameters, 2.5, foreach=foreach)
    clamped = np.clip(np.float32(WIDE).astype(np.float64), -2.5, 2.5).tolist()
    assert values(*parameters).tolist() == clamped + (bias or [])
    assert (parameters[1].grad is None) == (bias is None)


@behaviour("torch", "nn.4", "test_clip_grad_value", "a single tensor is accepted, with the result of a list of it")
@behaviour("torch", "cpp.9", "ClipGradValue", "a single tensor is accepted, with the result of a list of it")
def test_values_of_a_single_tensor() -> None:
    alone, listed = torch.zeros(10, 10), torch.zeros(10, 10)
    alone.grad, listed.grad = (torch.from_numpy(WIDE).float().view(10, 10) for _ in range(2))
    clip_grad_value_(alone, 2.5)
    clip_grad_value_([listed], 2.5)
    assert torch.equal(alone.grad, listed.grad)
    assert alone.grad.abs().max() == 2.5


# -- clip_grad_norm_, and get_total_norm with clip_grads_with_norm_


@behaviour("torch", "nn.5", "test_clip_grad_norm", "the norm before clipping is returned")
@behaviour("torch", "nn.6", "test_clip_grad_norm", "the norm afterwards is the limit, and at most the norm before")
@behaviour("torch", "nn.7", "test_clip_grad_norm", "every element is scaled by the same factor")
@behaviour("torch", "nn.8", "test_clip_grad_norm", "get_total_norm and clip_grads_with_norm_ together do the same")
@behaviour("torch", "cpp.1", "ClipGradNorm", "the norm before is returned, to 4 units in the last place of float32")
@behaviour(
    "torch",
    "cpp.2",
    "ClipGradNorm",
    "the norm afterwards is within 1e-6 of the limit, and not above it",
    differs="the factor is max_norm / norm, without torch's 1e-6, so the norm exceeds the limit by rounding alone",
)
@behaviour("torch", "cpp.3", "ClipGradNorm", "every element is scaled by the same factor")
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@HOW
@FOREACH
def test_a_large_norm_is_reduced_to_the_limit(norm_type: float | str, how: How, foreach: bool | None) -> None:
    parameters, p = large(), float(norm_type)
    before = values(*parameters)
    returned = how(parameters, 2, norm_type, foreach)  # type: ignore[arg-type]
    assert returned.item() == pytest.approx(norm(before, p), rel=4 * 2**-23)
    after = values(*parameters)
    assert norm(after, p) == pytest.approx(2, abs=1e-6)
    assert norm(after, p) <= 2 * (1 + 2**-21)
    assert (after / before).std() == pytest.approx(0, abs=1e-7)


@behaviour("torch", "nn.9", "test_clip_grad_norm", "gradients below the limit stay, and their norm is returned")
@behaviour("torch", "cpp.4", "ClipGradNorm", "gradients below the limit stay, and their norm is returned")
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@HOW
def test_a_small_norm_is_left(norm_type: float | str, how: How) -> None:
    parameters, p = small(), float(norm_type)
    before = values(*parameters)
    returned = how(parameters, 2, norm_type, None)  # type: ignore[arg-type]
    assert norm(before, p) < 2
    assert returned.item() == pytest.approx(norm(before, p), rel=1e-6)
    assert values(*parameters).tolist() == before.tolist()


@behaviour("torch", "nn.10", "test_clip_grad_norm", "a single tensor is accepted, with the result of a list of it")
@behaviour("torch", "cpp.5", "ClipGradNorm", "the same, for all norm types one after the other")
def test_the_norm_of_a_single_tensor() -> None:
    alone, listed = torch.zeros(10, 10), torch.zeros(10, 10)
    alone.grad, listed.grad = (torch.from_numpy(RISING).float().view(10, 10) for _ in range(2))
    for norm_type in NORM_TYPES:
        one = clip_grad_norm_(alone, 2, norm_type)
        assert one == clip_grad_norm_([listed], 2, norm_type)
        assert torch.equal(alone.grad, listed.grad)
        assert norm(values(alone.grad), float(norm_type)) <= 2 * (1 + 2**-21)


@behaviour(
    "torch",
    "nn.11",
    "test_clip_grad_norm",
    "a generator that is used up gives one warning, and nothing is clipped",
    differs="the warning says in other words that an iterator can be read only once",
)
def test_a_used_iterator_gives_one_warning() -> None:
    model = nn.Linear(10, 10)
    parameters = model.parameters()
    assert len(list(parameters)) == 2
    with pytest.warns(UserWarning, match="gives no parameters, and nothing is clipped") as caught:
        assert clip_grad_norm_(parameters, 2).item() == 0
    assert len(caught) == 1


# -- gradients that are not finite


ONE_NONFINITE = [math.nan, math.inf, -math.inf]
HUGE = [2e22, -2e22, 2e200, -2e200]
CASES = pytest.mark.parametrize("only_one", [False, True], ids=["all elements", "one element"])
IN_FRONT = pytest.mark.parametrize("in_front", [False, True], ids=["alone", "after a finite gradient"])


def from_backward(scalar: float, only_one: bool, in_front: bool) -> list[Parameter]:
    """A parameter of 10 whose gradient is the scalar in one element or all, perhaps after one with a gradient of 1."""
    ahead, parameter = (Parameter(torch.ones(n, dtype=torch.float64)) for n in (1, 10))
    (ahead.sum() + (parameter[1] if only_one else parameter.sum()) * scalar).backward()
    return [ahead, parameter] if in_front else [parameter]


@behaviour(
    "torch",
    "nn.12",
    "test_clip_grad_norm_error_if_nonfinite",
    "an infinite or nan norm raises, names the order and changes no gradient",
    differs=(
        "finite gradients never raise, where torch's sum of the squares of 2e200 overflows; "
        "orders of 0 and below are refused"
    ),
)
@behaviour("torch", "nn.13", "test_clip_grad_norm_error_if_nonfinite", "without the flag nothing raises")
@behaviour("torch", "cpp.6", "ClipGradNormErrorIfNonfinite", "an infinite or nan norm raises and changes no gradient")
@behaviour("torch", "cpp.7", "ClipGradNormErrorIfNonfinite", "without the flag nothing raises")
@pytest.mark.parametrize("norm_type", [0.1, 1, 2, 3.5, math.inf])
@pytest.mark.parametrize("scalar", [*ONE_NONFINITE, *HUGE])
@CASES
@IN_FRONT
def test_only_a_nonfinite_gradient_raises(norm_type: float, scalar: float, only_one: bool, in_front: bool) -> None:
    parameters = from_backward(scalar, only_one, in_front)
    before = values(*parameters)
    if math.isfinite(scalar):
        returned = clip_grad_norm_(parameters, 1, norm_type, error_if_nonfinite=True)
        expected = abs(scalar) * norm(before / abs(scalar), norm_type)
        assert returned.item() == pytest.approx(expected, rel=1e-12)
        assert norm(values(*parameters), norm_type) == pytest.approx(1)
    else:
        with pytest.raises(RuntimeError, match=f"the total norm of order {norm_type} of the gradients is not finite"):
            clip_grad_norm_(parameters, 1, norm_type, error_if_nonfinite=True)
        np.testing.assert_array_equal(values(*parameters), before)
    parameters = from_backward(scalar, only_one, in_front)
    returned = clip_grad_norm_(parameters, 1, norm_type, error_if_nonfinite=False)
    assert bool(returned.isfinite()) == math.isfinite(scalar)


@pytest.mark.parametrize("norm_type", [0, -0.1, -1, -2, -3.5, -math.inf])
def test_orders_of_0_and_below_are_refused(norm_type: float) -> None:
    """They are no norms: they belong to nn.12 and nn.13 of torch."""
    parameters = large()
    before = values(*parameters)
    for error_if_nonfinite in (False, True):
        with pytest.raises(InvalidField, match=r"norm_type=.*must be a number of at least 0\.1"):
            clip_grad_norm_(parameters, 1, norm_type, error_if_nonfinite=error_if_nonfinite)
        with pytest.raises(InvalidField, match=r"norm_type=.*must be a number of at least 0\.1"):
            get_total_norm(
                [p.grad for p in parameters if p.grad is not None], norm_type, error_if_nonfinite=error_if_nonfinite
            )
    assert values(*parameters).tolist() == before.tolist()


# -- several devices


@behaviour("torch", "nn.14", "test_clip_grad_norm_multi_device", "the norm over two devices is that of one device")
@behaviour("torch", "nn.15", "test_clip_grad_norm_multi_device", "every gradient stays on its device, clipped alike")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the CPU")
@pytest.mark.parametrize("norm_type", [2.0, math.inf])
@FOREACH
def test_two_devices(norm_type: float, foreach: bool | None) -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10).cuda())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    returned = clip_grad_norm_(model.parameters(), 0.5, norm_type, foreach=foreach)
    expected = norm([1.0] * 220, norm_type)
    assert returned.item() == pytest.approx(expected, rel=1e-6)
    for parameter in model.parameters():
        assert parameter.grad.device == parameter.device
        assert values(parameter.grad.cpu()) == pytest.approx(0.5 / expected, rel=1e-6)


# -- precision, and gradients that are missing


@behaviour(
    "torch",
    "fsdp1.7",
    "test_low_precision_grads",
    "float16 gradients stay so, and the norm is float16",
    differs=FLOAT64,
)
@behaviour("torch", "fsdp1.8", "test_low_precision_grads", "no gradient's own norm is above the limit afterwards")
@pytest.mark.parametrize("max_norm", [1, 2.5])
@pytest.mark.parametrize("norm_type", [1, 2, math.inf])
def test_half_precision(max_norm: float, norm_type: float) -> None:
    random = np.random.default_rng(0)
    parameters = [leaf(random.normal(size=shape).tolist(), dtype=torch.float16) for shape in ((24, 24), (24,))]
    before = values(*parameters)
    returned = clip_grad_norm_(parameters, max_norm, norm_type)
    assert returned.dtype == torch.float64
    assert returned.item() == pytest.approx(norm(before, norm_type), rel=1e-6)
    assert norm(before, norm_type) > max_norm
    for parameter in parameters:
        assert parameter.grad.dtype == torch.float16
        assert norm(values(parameter), norm_type) <= max_norm * (1 + 2**-10)


@behaviour("torch", "fsdp1.9", "test_no_gradients", "a model without any gradient gives a warning")
@behaviour("torch", "fsdp1.10", "test_no_gradients", "its norm is a scalar of 0, in float32", differs=FLOAT64)
def test_no_gradients() -> None:
    model = nn.Linear(24, 24).half()
    with pytest.warns(UserWarning, match="clip.. found no gradient") as caught:
        returned = clip_grad_norm_(model.parameters(), 1)
    assert len(caught) == 1
    assert (returned.item(), returned.dim(), returned.dtype) == (0, 0, torch.float64)


@behaviour(
    "torch",
    "fsdp1.11",
    "test_non_uniform_grad_dtype",
    "bfloat16 and float32 gradients together have a norm in float32",
    differs=FLOAT64,
)
def test_two_precisions() -> None:
    random = np.random.default_rng(0)
    parameters = [leaf(random.normal(size=25).tolist(), dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    before = values(*parameters)
    returned = clip_grad_norm_(parameters, 1)
    assert returned.dtype == torch.float64
    assert returned.item() == pytest.approx(norm(before), rel=1e-6)
    assert norm(values(*parameters)) == pytest.approx(1, rel=2**-8)
    assert [p.grad.dtype for p in parameters] == [torch.bfloat16, torch.float32]


# -- scaled gradients


def by_definition(parameters: list[Parameter], max_norm: float) -> None:
    """Clips as clip_grad_norm_ does; the norm must exceed the limit."""
    total = norm(values(*parameters))
    assert total > max_norm
    for parameter in parameters:
        parameter.grad.mul_(max_norm / total)


def trained(how: str, spoil: str) -> Tensor:
    """The weights after a few steps in float32 with gradients clipped to 0.2; one step has an infinite gradient.

    how: "scaled" clips the scaled gradients to the scaled limit; "unscaled" calls `unscale_` first; "plain" uses
        neither a scaler nor gradclip, and skips the step.
    spoil: whether the infinity is put in "before" unscaling or "after" clipping.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0, growth_interval=100, enabled=how != "plain")
    for step in range(4):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(torch.randn(8, 8)), torch.randn(8, 8))
        scaler.scale(loss).backward()
        if step == 2 and spoil == "before":
            model[1].weight.grad[0, 0] = math.inf
        if how == "unscaled":
            scaler.unscale_(optimizer)
        max_norm = 0.2 * (scaler.get_scale() if how == "scaled" else 1.0)
        if how == "plain":
            by_definition(list(model.parameters()), max_norm)
        else:
            clip_grad_norm_(model.parameters(), max_norm)
        if step == 2 and spoil == "after":
            model[1].weight.grad[0, 0] = math.inf
        if how != "plain":
            scaler.step(optimizer)
            scaler.update()
        elif step != 2:
            optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@behaviour("torch", "amp.1", "test_grad_scaling_clipping", "scaled gradients are clipped to the scaled limit")
@behaviour("torch", "amp.2", "test_grad_scaling_clipping_separate_unscale", "a step with an infinity is skipped")
@pytest.mark.parametrize(("how", "spoil"), [("scaled", "after"), ("unscaled", "before")])
def test_with_a_gradient_scaler(how: str, spoil: str) -> None:
    torch.testing.assert_close(trained(how, spoil), trained("plain", spoil), rtol=1e-5, atol=1e-6)
