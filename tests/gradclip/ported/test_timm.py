"""What timm's one test about clipping checks, and what its untested code does with special inputs.

Test 1 is in tests/test_task.py. The section "code" has the facts a to p of timm/utils/agc.py and clip_grad.py, as
code.1 to code.16: no test of timm checks them.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from gradclip import AGC, ClipByNorm, ClipByValue, ClipCheckError, Clipper, InvalidField, NonFiniteGradientError, Policy
from tests.gradclip.ported.behaviours import behaviour, clip, leaf, norm, values


class Task(nn.Module):
    """A model together with its loss, as a module."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.loss = nn.MSELoss()


@behaviour(
    "timm", "1", "test_base_eval_model_preserves_trainable_wrapper_for_use", "a task clips its model's parameters"
)
def test_a_wrapper_clips_the_parameters_of_its_model() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    report = Clipper(Task(model), ClipByNorm(max=1.0)).clip()
    assert report.names == tuple(f"model.{name}" for name, _ in model.named_parameters())
    assert norm(values(*model.parameters())) == pytest.approx(1)


@behaviour(
    "timm",
    "code.1",
    "(none)",
    "the modes are norm, value and agc, and another one is refused",
    differs="the names are those of Policy.options, and a policy says itself which options it takes",
)
def test_the_modes() -> None:
    assert [Policy.options[name] for name in ("norm", "value", "agc")] == [ClipByNorm, ClipByValue, AGC]
    with pytest.raises(InvalidField, match=r"norm_type=3\.0"):
        AGC(norm_type=3.0)
    with pytest.raises(TypeError, match="must be an instance of a policy"):
        Clipper([("w", leaf([1.0]))], "norm")


@behaviour("timm", "code.2", "(none)", "a single parameter is accepted, and one without a gradient is skipped")
@behaviour("timm", "code.16", "(none)", "a parameter that is given twice is clipped once")
def test_a_missing_gradient_and_a_parameter_given_twice() -> None:
    missing, parameter = Parameter(torch.ones(2)), leaf([3.0, 4.0], [3.0, 4.0])
    Clipper([("missing", missing), ("one", parameter), ("other", parameter)], AGC()).clip()
    assert missing.grad is None
    assert values(parameter) == pytest.approx([0.03, 0.04])


@behaviour("timm", "code.3", "(none)", "a vector or scalar is one unit, else all dimensions but the first are reduced")
@behaviour("timm", "code.4", "(none)", "the limit is 0.01 * max(weight norm, 0.001)")
@pytest.mark.parametrize(
    ("weights", "gradient", "expected"),
    [
        (3.0, 4.0, 0.03),
        ([3.0, 4.0], [30.0, 40.0], [0.03, 0.04]),
        ([[3.0, 4.0], [0.0, 1e-4]], [[30.0, 40.0], [0.0, 1.0]], [[0.03, 0.04], [0.0, 1e-5]]),
        ([[[1.0], [2.0], [2.0]]], [[[1.0], [0.0], [0.0]]], [[[0.03], [0.0], [0.0]]]),
    ],
    ids=["0D", "1D", "2D", "3D"],
)
def test_units_and_limits(weights: object, gradient: object, expected: object) -> None:
    parameter = leaf(gradient, weights)
    clip(AGC(), parameter)
    torch.testing.assert_close(parameter.grad, torch.tensor(expected), rtol=1e-6, atol=0)


@behaviour(
    "timm",
    "code.4",
    "(none)",
    "a gradient's norm counts as at least 1e-6",
    differs="it counts as it is, so that a tiny gradient is limited, too",
)
def test_tiny_gradients_are_limited() -> None:
    parameter = leaf([3e-8, 4e-8], [0.0, 0.0])
    clip(AGC(ratio=1e-5), parameter)
    assert values(parameter) == pytest.approx([6e-9, 8e-9], rel=1e-6)


@behaviour(
    "timm",
    "code.5",
    "(none)",
    "a norm equal to its limit is computed again, and may change by rounding",
    differs="it is left bit-identical",
)
def test_a_norm_equal_to_its_limit_is_left() -> None:
    parameter = leaf([3.0, 4.0], [6.0, 8.0])
    assert clip(AGC(ratio=0.5), parameter).fraction == 0
    assert parameter.grad.tolist() == [3.0, 4.0]


@behaviour("timm", "code.6", "(none)", "weights of 0 have a limit of 1e-5")
def test_weights_of_0_can_learn() -> None:
    parameter = leaf([3.0, 4.0], [0.0, 0.0])
    clip(AGC(), parameter)
    assert values(parameter) == pytest.approx([6e-6, 8e-6], rel=1e-6)


@behaviour(
    "timm",
    "code.7",
    "(none)",
    "an infinite element becomes nan, and the others 0",
    differs="the policy's `nonfinite` decides, and by default an error is raised",
)
@behaviour("timm", "code.8", "(none)", "a nan makes the whole unit nan", differs="as an infinite element")
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_nonfinite_element(bad: float) -> None:
    parameter = leaf([bad, 1.0], [3.0, 4.0])
    with pytest.raises(NonFiniteGradientError, match="p0"):
        clip(AGC(), parameter)
    assert parameter.grad[1] == 1
    assert clip(AGC(nonfinite="drop"), parameter).dropped
    clip(AGC(nonfinite="zero"), parameter)
    assert values(parameter) == pytest.approx([0.0, 0.05])


@behaviour("timm", "code.9", "(none)", "a nan in the weights makes the unit's gradient nan")
def test_a_nan_in_the_weights() -> None:
    """check() raises before the optimizer's step."""
    parameter = leaf([1.0, 1.0], [math.nan, 4.0])
    clipper = Clipper([("w", parameter)], AGC())
    assert clipper.clip().limits.isnan().all()
    assert parameter.grad.isnan().all()
    with pytest.raises(ClipCheckError, match="a norm of nan"):
        clipper.check()


@behaviour("timm", "code.10", "(none)", "an infinity in the weights limits nothing")
def test_an_infinity_in_the_weights() -> None:
    parameter = leaf([1.0, 1.0], [math.inf, 4.0])
    clip(AGC(), parameter)
    assert parameter.grad.tolist() == [1.0, 1.0]


@behaviour(
    "timm",
    "code.11",
    "(none)",
    "gradients whose norm overflows become 0",
    differs="norms do not overflow, so they are scaled to their limit",
)
@pytest.mark.parametrize(
    ("gradient", "weights", "dtype"),
    [
        ([4e4, 4e4, 4e4], [3.0, 4.0, 0.0], torch.float16),
        ([3e22, 4e22], [3.0, 4.0], torch.float32),
    ],
)
def test_a_norm_beyond_the_dtype(gradient: list[float], weights: list[float], dtype: torch.dtype) -> None:
    parameter = leaf(gradient, weights, dtype)
    clip(AGC(), parameter)
    assert norm(values(parameter)) == pytest.approx(0.05, rel=torch.finfo(dtype).eps)


@behaviour(
    "timm",
    "code.12",
    "(none)",
    "weights whose norm overflows limit nothing",
    differs="norms do not overflow, so their limit is that of their norm",
)
def test_a_norm_of_weights_beyond_float16() -> None:
    parameter = leaf([[6e4, 6e4]], [[6e4, 6e4]], torch.float16)
    clip(AGC(), parameter)
    assert values(parameter).tolist() == [600.0, 600.0]


@behaviour(
    "timm",
    "code.13",
    "(none)",
    "a sparse gradient of a matrix raises a RuntimeError",
    differs="a ValueError names the parameter; the scope `parameter` accepts it",
)
def test_a_sparse_gradient_has_no_units() -> None:
    embedding = nn.Embedding(3, 2, sparse=True)
    nn.init.ones_(embedding.weight)
    (100 * embedding(torch.tensor([1, 1]))).sum().backward()
    with pytest.raises(ValueError, match=r"cannot take the gradient of weight, .*it is sparse"):
        Clipper(embedding, AGC()).clip()
    Clipper(embedding, AGC(scope="parameter")).clip()
    expected = 0.01 * 6**0.5 / 2**0.5
    assert embedding.weight.grad.to_dense().tolist() == [[0, 0], pytest.approx([expected, expected]), [0, 0]]


def test_a_sparse_gradient_with_as_many_elements_as_rows() -> None:
    parameter = leaf([[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    parameter.grad = parameter.grad.to_sparse()  # two elements, in two sparse dimensions
    with pytest.raises(ValueError, match="cannot take the gradient of w"):
        Clipper([("w", parameter)], AGC()).clip()


@behaviour(
    "timm",
    "code.14",
    "(none)",
    "a vector without elements works; a matrix of (2, 0) has no infinity norm",
    differs="both work",
)
def test_gradients_without_elements() -> None:
    vector, matrix, full = leaf([]), leaf([[], []]), leaf([3.0, 4.0], [3.0, 4.0])
    assert clip(AGC(), vector, matrix, full).norms.tolist() == [0.0, 0.0, 0.0, 5.0]
    assert values(full) == pytest.approx([0.03, 0.04])
    assert clip(ClipByNorm(max=1.0, norm_type=math.inf), vector, matrix).before == 0


@behaviour("timm", "code.15", "(none)", "a negative ratio reverses the gradient", differs="it is refused")
def test_a_negative_ratio_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"ratio=-1: must be a number above 0"):
        AGC(ratio=-1)
