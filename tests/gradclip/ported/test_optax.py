"""What optax's tests check of its clipping transformations.

Tests 1 to 21 are in optax/transforms/_clipping_test.py, 22 and 23 in the docstrings of _clipping.py, 24 to 26 in
contrib/_privacy_test.py, 27 in _src/float64_test.py, 28 in schedules/_inject_test.py, 29 in
tree_utils/_tree_math_test.py and 30 in transforms/_monitoring_test.py.

optax has units for adaptive clipping of its own: a matrix in JAX is inputs by outputs, so its units are columns; in
PyTorch it is outputs by inputs, and they are rows. Its gradients per example have no equivalent in PyTorch, where
`.grad` is their sum; a matrix with one example per row and the scope `unit` is clipped by the same arithmetic.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import Parameter

from gradclip import (
    AGC,
    Chain,
    ClipByNorm,
    ClipByRMS,
    ClipByValue,
    Clipper,
    NoClip,
    Policy,
    clip_grad_norm_,
)
from tests.gradclip.ported.behaviours import behaviour, clip, leaf, norm, unit_norms, values

GRADIENTS = [[500.0, 5.0], [300.0, 3.0]]
WEIGHTS = [[1.0, 2.0], [3.0, 4.0]]
FEATURES = np.array([[0.0, 0, 0], [0, 3, 4], [4, 0, 3], [3, 4, 0]])  # one example per row, of norm 0 or 5
ROWS = "the units of a weight are its outputs, which are rows in PyTorch and columns in JAX"


def leaves() -> list[Parameter]:
    return [leaf(gradient, weights) for gradient, weights in zip(GRADIENTS, WEIGHTS, strict=True)]


def per_example(examples: ArrayLike, policy: Policy) -> tuple[list[float], int]:
    """The sum of the clipped rows, and how many of them were clipped."""
    parameter = leaf(np.asarray(examples, dtype=np.float64).tolist(), dtype=torch.float64)
    report = clip(policy, parameter)
    return parameter.grad.sum(0).tolist(), round(report.fraction.item() * len(parameter))


@behaviour("optax", "1", "test_clip", "a bound of 1e6 changes nothing")
@behaviour("optax", "2", "test_clip", "a bound of 1 makes every larger element exactly 1")
@pytest.mark.parametrize(("bound", "expected"), [(1e6, GRADIENTS), (1.0, [[1.0, 1.0], [1.0, 1.0]])])
def test_value(bound: float, expected: list[list[float]]) -> None:
    parameters = leaves()
    clip(ClipByValue(max=bound), *parameters)
    assert [parameter.grad.tolist() for parameter in parameters] == expected


def within_the_mean_square(threshold: float, parameters: list[Parameter]) -> None:
    for parameter in parameters:
        assert norm(values(parameter)) / np.sqrt(2) == pytest.approx(threshold, abs=1e-6)


def within_the_norm(threshold: float, parameters: list[Parameter]) -> None:
    assert norm(values(*parameters)) == pytest.approx(threshold, abs=1e-6)


def within_the_ratio(threshold: float, parameters: list[Parameter]) -> None:
    for parameter, weights in zip(parameters, WEIGHTS, strict=True):
        assert norm(values(parameter)) == pytest.approx(threshold * norm(weights), rel=1e-6)


@behaviour("optax", "3", "test_clip_by_block_rms", "each leaf's root mean square equals the threshold")
@behaviour("optax", "4", "test_clip_by_block_rms", "clipping again and again equals clipping once")
@behaviour("optax", "5", "test_clip_by_global_norm", "the global norm equals the threshold")
@behaviour("optax", "6", "test_clip_by_global_norm", "clipping again and again equals clipping once")
@behaviour("optax", "7", "test_adaptive_grad_clip", "a vector's norm is at most the ratio times its weights' norm")
@behaviour("optax", "8", "test_adaptive_grad_clip", "clipping again and again equals clipping once")
@pytest.mark.parametrize(
    ("policy", "obeys", "expected"),
    [
        (lambda t: ClipByRMS(max=t), within_the_mean_square, [1.41414286, 0.01414143, 1.4141429, 0.0141414]),
        (lambda t: ClipByNorm(max=t), within_the_norm, [0.8574500, 0.0085745, 0.5144700, 0.0051447]),
        (lambda t: AGC(ratio=t), within_the_ratio, [2.2359562, 0.0223596, 4.9997500, 0.0499975]),
    ],
    ids=["rms", "norm", "agc"],
)
def test_falling_thresholds(
    policy: Callable[[float], Policy], obeys: Callable[[float, list[Parameter]], None], expected: list[float]
) -> None:
    """expected: at a threshold of 1; at the others in proportion."""
    again = leaves()
    for number in range(1, 51):
        once = leaves()
        clip(policy(1 / number), *again)
        clip(policy(1 / number), *once)
        for parameters in (again, once):
            obeys(1 / number, parameters)
            assert values(*parameters) == pytest.approx(np.array(expected) / number, rel=3e-6)


@behaviour("optax", "9", "test_adaptive_grad_clip", "a matrix is limited column by column", differs=ROWS)
@behaviour(
    "optax",
    "10",
    "test_adaptive_grad_clip_with_axis",
    "a kernel is limited over the axes that are given",
    differs="no axes are given: a unit is an output, over all dimensions but the first",
)
@behaviour("optax", "11", "test_adaptive_grad_clip_with_axis", "without axes a matrix's columns", differs=ROWS)
@behaviour("optax", "12", "test_adaptive_grad_clip_with_axis", "a gradient within its limit is unchanged")
@behaviour(
    "optax", "13", "test_adaptive_grad_clip_default_axis_conv3d", "a kernel of 5 dimensions has a unit per output"
)
@behaviour(
    "optax", "15", "test_unitwise_norm_with_axis", "the norms of a kernel of 5 dimensions are those of its outputs"
)
@behaviour(
    "optax",
    "17",
    "test_unitwise_norm_with_axis",
    "6 dimensions raise unless axes are given",
    differs="any number of dimensions is accepted, and the first one has the outputs",
)
@pytest.mark.parametrize(
    ("shape", "gradient", "ratio"),
    [
        ((2, 2), None, 1.0),
        ((12, 2, 2, 2), 2.0, 0.5),
        ((5, 6), 3.0, 0.5),
        ((5, 6), 0.1, 2.0),
        ((4, 2, 2, 2, 3), 2.0, 0.5),
        ((2, 1, 2, 1, 2, 3), 2.0, 0.5),
    ],
    ids=["matrix", "kernel", "5 by 6", "within", "3d convolution", "6 dimensions"],
)
def test_units(shape: tuple[int, ...], gradient: float | None, ratio: float) -> None:
    """Gradients of one number, or the numbers from 1 on if None, and weights of 1."""
    made = np.arange(1.0, 1 + np.prod(shape)).reshape(shape) if gradient is None else np.full(shape, gradient)
    parameter = leaf(made.tolist(), np.ones(shape).tolist())
    made = parameter.grad.double().numpy()  # rounded to float32
    report = clip(AGC(ratio=ratio), parameter)
    norms, limits = unit_norms(made), ratio * unit_norms(np.ones(shape))
    np.testing.assert_allclose(report.norms.numpy(), norms.ravel(), rtol=1e-6)
    np.testing.assert_allclose(report.limits.numpy(), limits.ravel(), rtol=1e-6)
    assert parameter.grad.shape == shape
    np.testing.assert_allclose(parameter.grad.numpy(), made * np.minimum(1, limits / norms), rtol=1e-6)
    assert (unit_norms(parameter.grad.numpy()) <= limits + 1e-6).all()
    if gradient == 0.1:
        np.testing.assert_array_equal(parameter.grad.numpy(), made)


def test_a_row_is_one_unit_and_a_column_has_one_per_element() -> None:
    """optax takes a matrix with one row or one column as one unit, whatever it means."""
    row, column = leaf([[3.0, 4.0]], [[3.0, 4.0]]), leaf([[3.0], [4.0]], [[3.0], [0.4]])
    assert clip(AGC(ratio=0.1), row, column).norms.tolist() == [5.0, 3.0, 4.0]
    assert values(row, column) == pytest.approx([0.3, 0.4, 0.3, 0.04])


# -- gradients per example, one in each row


@behaviour("optax", "18", "test_per_example_global_norm_clip", "the sum of the clipped examples, one of which is zero")
@behaviour("optax", "19", "test_per_example_global_norm_clip", "the number of clipped examples")
def test_the_whole_gradient_of_each_example() -> None:
    examples = np.array([[0, -0.5, 0], [3, 4, 5], [5, 6, -3], [0, 0, 0]])
    total, clipped = per_example(examples, ClipByNorm(max=1.0, scope="unit"))
    assert total == pytest.approx([1.02187837, 0.78282259, 0.34853820], abs=1e-6)
    assert clipped == 2


@behaviour("optax", "20", "test_per_example_layer_norm_clip", "every layer of every example has the same limit")
@behaviour("optax", "21", "test_per_example_layer_norm_clip", "a norm that equals its limit is not counted as clipped")
@pytest.mark.parametrize(
    ("layer", "limit", "each", "count"),
    [
        ([[0.5], [1.5], [-2.0], [3.0]], 1.0, 1.5, 3),
        (np.ones((4, 18)), 1.0, 4 / 18**0.5, 4),
        (np.ones((4, 18)), 18**0.5, 4.0, 0),
    ],
    ids=["uniform, small", "uniform, large", "scaled, large"],
)
def test_one_layer_of_each_example(layer: ArrayLike, limit: float, each: float, count: int) -> None:
    total, clipped = per_example(layer, ClipByNorm(max=limit, scope="unit"))
    assert total == pytest.approx([each] * len(total), abs=1e-4)
    assert clipped == count


@behaviour(
    "optax",
    "22",
    "per_example_global_norm_clip (docstring)",
    "limits of infinity, 0 and 1.25",
    differs="a policy refuses a limit of 0; clip_grad_norm_ accepts it",
)
@behaviour("optax", "23", "per_example_layer_norm_clip (docstring)", "the same with one layer")
@pytest.mark.parametrize(("limit", "total", "count"), [(np.inf, 7.0, 0), (1.25, 1.75, 3)])
def test_limits_of_examples(limit: float, total: float, count: int) -> None:
    assert per_example(FEATURES, ClipByNorm(max=limit, scope="unit")) == ([pytest.approx(total)] * 3, count)


def test_a_limit_of_0_makes_gradients_0() -> None:
    rows = [leaf(row.tolist()) for row in FEATURES]
    assert [clip_grad_norm_(row, 0.0).item() for row in rows] == [0.0, 5.0, 5.0, 5.0]
    assert not values(*rows).any()


@behaviour("optax", "24", "test_no_privacy", "the largest float32 as the limit leaves the mean of the gradients")
@behaviour("optax", "25", "test_clipping_norm", "the mean of the clipped examples, one of which is zero")
@pytest.mark.parametrize("limit", [0.5, 10, 20, 40, 80, float(np.finfo(np.float32).max)])
def test_the_mean_of_clipped_examples(limit: float) -> None:
    """Eight examples of 67 elements, in float32; all elements of example i are i."""
    parameter = leaf(np.repeat(np.arange(8.0)[:, None], 67, 1).tolist())
    clip(ClipByNorm(max=limit, scope="unit"), parameter)
    expected = np.mean([i * min(1, limit / (i * 67**0.5)) if i else 0 for i in range(8)])
    np.testing.assert_allclose(parameter.grad.double().mean(0).numpy(), np.full(67, expected), rtol=2e-7)


# -- whole trees, chains and thresholds


@behaviour("optax", "27", "test_mixed_dtype_input_outputs", "float32 and float64 leaves keep their dtypes")
@pytest.mark.parametrize("policy", [ClipByValue(max=1.0), ClipByNorm(max=1.0)], ids=["value", "norm"])
def test_dtypes_are_kept(policy: Policy) -> None:
    parameters = [leaf([3.0, 4.0], dtype=torch.float32), leaf([3.0, 4.0], dtype=torch.float64)]
    clip(policy, *parameters)
    assert [p.grad.dtype for p in parameters] == [p.dtype for p in parameters] == [torch.float32, torch.float64]
    expected = [1.0] * 4 if policy.name == "value" else np.array([3, 4, 3, 4]) / 50**0.5
    assert values(*parameters) == pytest.approx(expected, rel=1e-6)


@behaviour(
    "optax",
    "28",
    "test_overriding_hyperparam",
    "the limit may change between steps, and be 0",
    differs="a policy refuses a limit of 0; clip_grad_norm_ accepts it",
)
def test_the_limit_changes_between_steps() -> None:
    parameters = [leaf(np.ones(shape).tolist()) for shape in (3, 5, 7)]
    clipper = Clipper([(str(n), p) for n, p in enumerate(parameters)], ClipByNorm(max=1.0))
    for limit in range(5):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        if limit == 0:
            clip_grad_norm_(parameters, limit)
        else:
            clipper.policy.max = float(limit)
            clipper.clip()
        assert norm(values(*parameters)) == pytest.approx(min(limit, 15**0.5), rel=1e-6)


@behaviour(
    "optax",
    "30",
    "test_snapshot, test_monitor",
    "a chain measures the norm before it clips",
    differs="the report has the norms of each step; a moving average over steps is the caller's",
)
def test_the_norm_before_in_a_chain() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = Clipper(model, Chain(links={"measured": NoClip(), "clipped": ClipByNorm(max=0.05)}))
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        before = norm(values(*model.parameters()))
        report = clipper.clip()
        assert before > 0.05
        assert report.before.item() == pytest.approx(before, rel=1e-6)
        assert report.norms.tolist() == pytest.approx([before, before], rel=1e-6)
        assert report.after.item() == pytest.approx(0.05, rel=1e-6)
        assert norm(values(*model.parameters())) == pytest.approx(0.05, rel=1e-6)
        optimizer.step()
