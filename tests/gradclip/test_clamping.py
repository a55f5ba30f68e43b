"""Clamping elements in parts that stay in the cache: counts and norms against NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gradclip import ClipByValue, Clipper
from gradclip.norms import PART
from tests.support import exact_norm, with_gradients

LONG = 2 * PART + 77


def spread(count: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bound", [0.0625, 2.5, 4.75, 100.0])
def test_gradients_of_several_lengths_and_memory_layouts(dtype: torch.dtype, bound: float) -> None:
    wide = spread(600 * 300, dtype).view(600, 300)
    gradients = [spread(LONG, dtype), spread(40, dtype, 1), spread(40, dtype, 2), wide.t(), wide[::2, ::3]]
    gradients += [spread(1, dtype).view(()), torch.zeros(0, dtype=dtype)]
    model = with_gradients(gradients)
    exact = [gradient.double().numpy() for gradient in gradients]
    report = Clipper(model.named_parameters(), ClipByValue(max=bound)).clip()
    reached = sum(int((np.abs(one) >= bound).sum()) for one in exact)
    assert report.fraction.item() == pytest.approx(reached / sum(one.size for one in exact), abs=1e-15)
    assert report.limited.tolist() == [np.abs(one).max(initial=0.0) >= bound for one in exact]
    assert report.norms.tolist() == [np.abs(one).max(initial=0.0) for one in exact]
    for parameter, one, (before, after) in zip(model.values(), exact, report.by_parameter().values(), strict=True):
        clamped = np.clip(one, -bound, bound)
        assert np.array_equal(parameter.grad.double().numpy(), clamped)
        assert before == pytest.approx(math.sqrt(np.square(one).sum()), rel=1e-6)
        assert after == pytest.approx(math.sqrt(np.square(clamped).sum()), rel=1e-6)
    assert report.after.item() == pytest.approx(exact_norm([p.grad for p in model.values()]), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_one_shape_in_channels_last(dtype: torch.dtype) -> None:
    kernels = [torch.randn(8, 8, 3, 3).to(dtype).to(memory_format=torch.channels_last) for _ in range(2)]
    model = with_gradients(kernels)
    Clipper(model.named_parameters(), ClipByValue(max=0.5)).clip()
    for parameter, kernel in zip(model.values(), kernels, strict=True):
        assert torch.equal(parameter.grad, kernel.clamp(-0.5, 0.5))


def test_clamped_elements_do_not_exceed_the_bound_rounded_to_their_type() -> None:
    model = with_gradients([torch.ones(9, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)])
    clipper = Clipper(model.named_parameters(), ClipByValue(max=0.1))
    clipper.clip()
    clamped = [parameter.grad.clone() for parameter in model.values()]
    clipper.check()
    assert clipper.clip().fraction.item() == 1.0  # an element at its bound counts
    assert all(torch.equal(parameter.grad, one) for parameter, one in zip(model.values(), clamped, strict=True))


@pytest.mark.parametrize("index", [5, PART + 5, LONG - 1])
def test_only_one_part_exceeds_the_bound(index: int) -> None:
    gradient = torch.full((LONG,), 0.25)
    gradient[index] = -3.0
    model = with_gradients([gradient])
    report = Clipper(model.named_parameters(), ClipByValue(max=1.0)).clip()
    gradient[index] = -1.0
    assert torch.equal(model["p0"].grad, gradient)
    assert report.fraction.item() == 1 / LONG
    assert report.norms.tolist() == [3.0]
    assert report.after.item() == pytest.approx(exact_norm([gradient]), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("bound", [0.5, 1e6, 1e39])
@pytest.mark.parametrize("index", [2, -1])
def test_nonfinite_elements_pass_as_in_torch(bad: float, bound: float, index: int) -> None:
    """Even if the bound is beyond the range of one of the types."""
    gradients = [torch.full((LONG,), 0.25), torch.ones(4, dtype=torch.float16), torch.ones(4, dtype=torch.float64)]
    for gradient in gradients:
        gradient[index] = bad
    model = with_gradients(gradients)
    clipper = Clipper(model.named_parameters(), ClipByValue(max=bound, nonfinite="keep"))
    report = clipper.clip()
    clipper.check()
    for parameter, gradient in zip(model.values(), gradients, strict=True):
        most = min(bound, torch.finfo(gradient.dtype).max) if bound < torch.finfo(gradient.dtype).max else math.inf
        torch.testing.assert_close(parameter.grad, gradient.clamp(-most, most), rtol=0, atol=0, equal_nan=True)
    assert [math.isnan(size) if math.isnan(bad) else size == bad for size in report.norms.tolist()] == [True] * 3
