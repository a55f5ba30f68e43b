"""torch's four clipping functions with torch's signatures: equal to torch, except where torch is wrong."""

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import utils

import gradclip
from gradclip import InvalidField, functional
from tests.support import exact_norm


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)
    (10 * net(torch.randn(8, 6, dtype=dtype))).square().sum().backward()
    return net


def grads(net: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in net.parameters()]


@pytest.mark.parametrize("name", ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"])
def test_the_signatures_are_torchs(name: str) -> None:
    ours, theirs = (dict(inspect.signature(getattr(module, name)).parameters) for module in (gradclip, utils))
    if name != "clip_grads_with_norm_":
        own = ours.pop("process_group")
        assert (own.kind, own.default) == (inspect.Parameter.KEYWORD_ONLY, None)
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm_type", [1.0, 2, 2.5, math.inf])
@pytest.mark.parametrize("max_norm", [0, 0.1, 5.0, 1e9, math.inf])
def test_norm_equals_torch(dtype: torch.dtype, norm_type: float, max_norm: float) -> None:
    ours, theirs = model(dtype), model(dtype)
    one = functional.clip_grad_norm_(ours.parameters(), max_norm, norm_type)
    other = utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type)
    assert one.dim() == 0
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
    for mine, torchs in zip(grads(ours), grads(theirs), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("clip_value", [0, 0.1, 5, 1e9])
def test_value_equals_torch(clip_value: float) -> None:
    ours, theirs = model(), model()
    functional.clip_grad_value_(ours.parameters(), clip_value)
    utils.clip_grad_value_(theirs.parameters(), clip_value)
    for mine, torchs in zip(grads(ours), grads(theirs), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=0, atol=0)


def test_one_tensor_and_no_tensor() -> None:
    weight = torch.zeros(2, requires_grad=True)
    weight.grad = torch.tensor([3.0, 4.0])
    assert functional.clip_grad_norm_(weight, 1.0).item() == 5.0
    assert exact_norm([weight.grad]) == pytest.approx(1.0)
    functional.clip_grad_value_(weight, 0.7)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.7])
    assert functional.clip_grad_norm_([], 1.0).item() == 0.0
    with pytest.warns(UserWarning, match="found no gradient"):
        functional.clip_grad_value_([nn.Parameter(torch.zeros(2))], 1.0)  # torch raises


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_negative_and_nan_thresholds_are_refused(bad: float) -> None:
    """torch's clip_grad_norm_ accepts both."""
    net = model()
    before = grads(net)
    with pytest.raises(InvalidField, match=r"max_norm=.*at least 0"):
        functional.clip_grad_norm_(net.parameters(), bad)
    with pytest.raises(InvalidField, match=r"clip_value=.*at least 0"):
        functional.clip_grad_value_(net.parameters(), bad)
    assert all(torch.equal(a, b) for a, b in zip(before, grads(net), strict=True))


def test_cases_in_which_torch_is_wrong() -> None:
    huge = nn.Parameter(torch.zeros(4))
    huge.grad = torch.full((4,), 1e22)
    assert functional.clip_grad_norm_(huge, 1.0).item() == pytest.approx(2e22)
    assert exact_norm([huge.grad]) == pytest.approx(1.0)  # torch: all zeros
    tiny = nn.Parameter(torch.zeros(4))
    tiny.grad = torch.full((4,), 1e-30)
    assert functional.clip_grad_norm_(tiny, 1.0).item() == pytest.approx(2e-30)  # torch: 0
    tied = nn.Parameter(torch.zeros(1))
    tied.grad = torch.tensor([4.0])
    functional.clip_grad_norm_([tied, tied], 1.0)
    assert tied.grad.item() == pytest.approx(1.0)  # torch scales it twice
    empty = nn.Parameter(torch.zeros(0))
    empty.grad = torch.zeros(0)
    assert functional.clip_grad_norm_([empty], 1.0, math.inf).item() == 0.0  # torch raises


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_error_if_nonfinite(bad: float) -> None:
    net = model()
    net[0].bias.grad[0] = bad
    before = grads(net)
    with pytest.raises(RuntimeError, match="so nothing was clipped"):
        functional.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)
    for old, new in zip(before, grads(net), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, equal_nan=True)
    assert not functional.clip_grad_norm_(net.parameters(), 1.0).isfinite()


@pytest.mark.parametrize("norm_type", [0.5, 1, 2, 3.5, math.inf, "inf"])
def test_the_total_norm_is_that_of_all_tensors_together(norm_type: float | str) -> None:
    net = model()
    p, values = float(norm_type), [abs(x) for g in grads(net) for x in g.double().flatten().tolist()]
    expected = max(values) if p == math.inf else sum(x**p for x in values) ** (1 / p)
    before = grads(net)
    assert functional.get_total_norm(before, norm_type).item() == pytest.approx(expected, rel=1e-6)
    assert functional.get_total_norm(before[0]).item() == pytest.approx(exact_norm(before[:1]), rel=1e-6)
    assert functional.get_total_norm([]).item() == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, grads(net), strict=True))
    with pytest.raises(InvalidField, match=r"norm_type=0\.0"):
        functional.get_total_norm(before, 0)


def test_the_total_norm_of_large_and_of_nonfinite_tensors() -> None:
    assert functional.get_total_norm([torch.full((4,), 1e22)]).item() == pytest.approx(2e22)
    bad = torch.tensor([1.0, math.nan])
    assert functional.get_total_norm([bad]).isnan()
    with pytest.raises(RuntimeError, match=r"order 2.0 .*not finite"):
        functional.get_total_norm([bad], error_if_nonfinite=True)


@pytest.mark.parametrize("max_norm", [0, 0.1, 1e9, math.inf])
def test_clipping_with_a_norm_measured_before_equals_torch(max_norm: float) -> None:
    ours, theirs = model(), model()
    functional.clip_grads_with_norm_(ours.parameters(), max_norm, functional.get_total_norm(grads(ours)))
    utils.clip_grads_with_norm_(theirs.parameters(), max_norm, utils.get_total_norm(grads(theirs)))
    for mine, torchs in zip(grads(ours), grads(theirs), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=3e-6, atol=1e-12)


def test_clipping_with_an_odd_norm() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    functional.clip_grads_with_norm_(weight, 1.0, 10)  # a plain number
    assert weight.grad.tolist() == pytest.approx([0.3, 0.4])
    functional.clip_grads_with_norm_(weight, 0, torch.zeros(()))  # within the limit
    assert weight.grad.tolist() == pytest.approx([0.3, 0.4])
    functional.clip_grads_with_norm_([weight, nn.Parameter(torch.zeros(2))], 1.0, torch.tensor(math.nan))
    assert weight.grad.isnan().all()
    with pytest.raises(InvalidField, match=r"max_norm=-1\.0"):
        functional.clip_grads_with_norm_(weight, -1.0, 1.0)
    with pytest.warns(UserWarning, match="read only once"):
        functional.clip_grads_with_norm_(iter(()), 1.0, 1.0)


def test_a_bound_of_zero_makes_infinite_elements_zero() -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([math.inf, -2.0, 1.0])
    functional.clip_grad_value_(weight, 0)
    assert weight.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("function", [functional.clip_grad_norm_, functional.clip_grad_value_])
def test_what_holds_no_parameters_is_refused_by_name(function: Callable[..., object]) -> None:
    net = model()
    with pytest.raises(TypeError, match=r"pass model\.parameters\(\), not the model"):
        function(net, 1.0)
    for wrong in (net.named_parameters(), [None]):
        with pytest.raises(TypeError, match=r"parameters must be tensors, such as model\.parameters\(\)"):
            function(wrong, 1.0)
