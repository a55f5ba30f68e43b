"""Norms against NumPy in float64, in cases in which plain float32 sums are wrong."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradclip.norms import CHUNK, PART, SMALL, combine, combine_groups, row_norms, tensor_norms
from tests.gradclip.support import as_on_an_accelerator
from tests.support import exact_norm

PS = [0.5, 1.0, 1.5, 2.0, 3.0, 7.0, 20.0, math.inf]


def norm(tensor: Tensor, p: float = 2.0) -> float:
    return tensor_norms([tensor], p).item()


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_agrees_with_float64(p: float, dtype: torch.dtype) -> None:
    for size in (1, 3, CHUNK, SMALL, SMALL + 1, 3 * SMALL + 77, 100_000, PART + 1, 3 * PART + 1):
        tensor = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
        assert norm(tensor, p) == pytest.approx(exact_norm([tensor], p), rel=1e-6), size


def test_ten_million_elements_are_accurate() -> None:
    """A single float32 accumulator may lose four digits here."""
    tensor = torch.rand(10**7, generator=torch.Generator().manual_seed(0)) + 0.5
    assert norm(tensor) == pytest.approx(exact_norm([tensor]), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-44, -30, -23, -18, 18, 22, 30, 38])
def test_norms_over_the_range_of_float32_neither_overflow_nor_underflow(dtype: torch.dtype, exponent: int) -> None:
    for p in PS:
        tensor = torch.full((100,), 10.0**exponent, dtype=dtype)
        found = norm(tensor, p)
        assert 0 < found < math.inf, p
        assert found == pytest.approx(exact_norm([tensor], p), rel=1e-6), p


def test_norms_over_the_range_of_float64_neither_overflow_nor_underflow() -> None:
    for exponent in (-300, -200, 200, 300):
        tensor = torch.full((100,), 10.0**exponent, dtype=torch.float64)
        assert norm(tensor) == pytest.approx(10.0 ** (exponent + 1), rel=1e-12)


def test_the_sum_of_norms_may_exceed_float32() -> None:
    tensors = [torch.full((1000,), 3e38)] * 3
    together = combine(tensor_norms(tensors, 2.0), 2.0).item()
    assert together == pytest.approx(exact_norm(tensors), rel=1e-6)


def test_empty_and_zero_tensors_have_norm_zero() -> None:
    for p in PS:
        norms = tensor_norms([torch.zeros(0), torch.zeros(5), torch.zeros(0, 3), torch.ones(1)], p)
        assert norms.tolist() == [0.0, 0.0, 0.0, 1.0], p
        assert combine(norms.new_zeros(0), p).item() == 0.0, p


def test_only_nonfinite_elements_give_nonfinite_norms() -> None:
    good, infinite, nan = torch.ones(4), torch.ones(4), torch.ones(4)
    infinite[1], nan[2] = -math.inf, math.nan
    for p in PS:
        norms = tensor_norms([good, infinite, nan], p)
        assert norms.isfinite().tolist() == [True, False, False], p
        assert not combine(norms, p).isfinite(), p


def test_equal_elements_are_the_worst_case_of_summing() -> None:
    for size in (1000, 1024, 1025, 4096, 70_000, 1_000_003):
        tensor = torch.full((size,), 0.3337)
        assert norm(tensor) == pytest.approx(exact_norm([tensor]), rel=1e-6), size


def test_layouts_other_than_contiguous() -> None:
    wide = torch.randn(600, 900, generator=torch.Generator().manual_seed(0))
    kernel = torch.randn(64, 64, 7, 7).to(memory_format=torch.channels_last)
    for tensor in (wide.t(), wide[::2, ::3], kernel, wide[:, :1].expand(600, 400)):
        assert norm(tensor) == pytest.approx(exact_norm([tensor]), rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(min_value=0, max_value=1e300), min_size=1, max_size=30), st.sampled_from(PS))
def test_combining_is_the_norm_of_norms(values: list[float], p: float) -> None:
    norms = torch.tensor(values, dtype=torch.float64)
    if p < 1 and max(values) > 1e200:
        return  # the true value may exceed float64
    assert combine(norms, p).item() == pytest.approx(exact_norm([norms], p), rel=1e-9)


def test_one_huge_element_among_equal_ones_is_a_worst_case_too() -> None:
    for size, spike in product((700, 768, 1000, 1024, 1025, 65_536), (4146.0, 300.0, 1e4)):
        tensor = torch.ones(size)
        tensor[:: 4 * CHUNK] = spike
        assert norm(tensor) == pytest.approx(exact_norm([tensor]), rel=1e-6)


def test_equal_elements_of_any_value() -> None:
    for step in range(1000):
        tensor = torch.full((768 + step,), 0.1 + 0.0031 * step)
        assert norm(tensor) == pytest.approx(exact_norm([tensor]), rel=5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exponent", [-30, 0, 30])
def test_norms_of_rows(dtype: torch.dtype, exponent: int) -> None:
    for width, p in product((0, 1, 7, CHUNK, 3 * CHUNK + 5), PS):
        rows = torch.randn(4, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
        rows = (rows * 10.0**exponent).to(dtype)
        rows[2] = 0
        for row, found in zip(rows, row_norms(rows, p).tolist(), strict=True):
            assert found == pytest.approx(exact_norm([row], p), rel=1e-6), (width, p)


@pytest.mark.parametrize("p", PS)
def test_norms_of_groups(p: float) -> None:
    norms = torch.tensor([3.0, 4.0, 1e200, 1e200, 0.0, math.nan, 1.0, math.inf, 2.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4, 4])
    found = combine_groups(norms, group, 6, p)
    assert found[1].item() == pytest.approx(1e200 * 2 ** (1 / p), rel=1e-12)
    for number in range(6):
        expected = combine(norms[group == number], p)
        torch.testing.assert_close(found[number], expected, equal_nan=True)


@pytest.mark.parametrize("exponent", [-30, 0, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_as_on_an_accelerator(dtype: torch.dtype, exponent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors are measured by one call in float64, or with scaling if float64 lacks the range."""
    random = torch.Generator().manual_seed(1)
    shapes = [(300,), (0,), (20, 30), (300,), ()]
    tensors = [(torch.randn(shape, generator=random) * 10.0**exponent).to(dtype) for shape in shapes]
    as_on_an_accelerator(monkeypatch)
    for p in PS:
        for found, tensor in zip(tensor_norms(tensors, p).tolist(), tensors, strict=True):
            assert found == pytest.approx(exact_norm([tensor], p), rel=1e-6), p


def test_the_worst_cases_of_float32_sums_are_accurate_to_1e_6() -> None:
    """The worst cases: equal squares, which round alike, and small squares next to a huge one."""
    for value in (0.3, 1 / 3, 0.7, 1.1):
        tensor = torch.full((100 * CHUNK,), value)
        assert norm(tensor) == pytest.approx(exact_norm([tensor]), rel=1e-6, abs=0)
    for small in (2.0**-12.05, 2.0**-12.5, 2.0**-11.9):
        tensor = torch.full((100 * CHUNK,), small)
        tensor[::CHUNK] = 1.0
        assert norm(tensor) == pytest.approx(exact_norm([tensor]), rel=1e-6, abs=0)
