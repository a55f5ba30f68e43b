"""Clipper and ClipReport: results equal to torch's where torch is right, reports, checks, state and errors."""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gradclip import (
    AGC,
    Chain,
    ClipByNorm,
    ClipByValue,
    ClipCheckError,
    Clipper,
    ElementwisePolicy,
    EMAClip,
    InvalidField,
    LimitPolicy,
    Measured,
    NoClip,
    NonFiniteGradientError,
    Policy,
    SpikeClip,
    UnmatchedPatternError,
)
from gradclip.policies import Memory
from gradclip.scopes import Blocks
from tests.gradclip.support import as_on_an_accelerator
from tests.support import exact_norm, with_gradients


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    (10 * model(torch.randn(8, 6))).square().sum().backward()
    return model


def copies(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


# -- equal to torch


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("threshold", [0.01, 1.0, 1e6])
def test_norm_equals_torch(model: nn.Module, norm_type: float, threshold: float) -> None:
    ours = copies(model)
    Clipper(model.named_parameters(), ClipByNorm(max=threshold, norm_type=norm_type)).clip()
    clipped = copies(model)
    for parameter, gradient in zip(model.parameters(), ours, strict=True):
        parameter.grad = gradient
    total = clip_grad_norm_(model.parameters(), threshold, norm_type)
    slack = 1e-6 / total.item() + 1e-6  # torch divides by the norm + 1e-6
    for mine, theirs in zip(clipped, copies(model), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=slack, atol=0)


@pytest.mark.parametrize("threshold", [0.01, 1.0, 1e6])
def test_value_equals_torch(model: nn.Module, threshold: float) -> None:
    before = copies(model)
    Clipper(model.named_parameters(), ClipByValue(max=threshold)).clip()
    clipped = copies(model)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient
    clip_grad_value_(model.parameters(), threshold)
    for mine, theirs in zip(clipped, copies(model), strict=True):
        assert torch.equal(mine, theirs)


def test_a_single_tensor() -> None:
    """A model's only parameter, and a tensor that is not in a list."""
    weight = nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.tensor([[120.0]])
    report = Clipper([("weight", weight)], ClipByValue(max=1.1)).clip()
    assert weight.grad.item() == pytest.approx(1.1)
    assert (report.before.item(), report.after.item()) == (120.0, pytest.approx(1.1))
    weight.grad = torch.tensor([[-120.0]])
    Clipper([("weight", weight)], ClipByNorm(max=1.0)).clip()
    assert weight.grad.item() == pytest.approx(-1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_keep_equals_torch(bad: float) -> None:
    gradients = [torch.tensor([bad, 1.0]), torch.tensor([5.0])]
    mine, theirs = with_gradients(gradients), with_gradients(gradients)
    clipper = Clipper(mine.named_parameters(), ClipByNorm(max=1.0, nonfinite="keep"))
    clipper.clip()
    clipper.check()
    clip_grad_norm_(theirs.parameters(), 1.0)
    for one, other in zip(copies(mine), copies(theirs), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("scope", ["parameter", "unit"])
def test_keep_makes_only_the_blocks_with_a_nan_norm_nan(scope: str) -> None:
    model = with_gradients([torch.tensor([[math.nan, 1.0]]), torch.tensor([[3.0, 4.0]])])
    Clipper(model.named_parameters(), ClipByNorm(max=1.0, scope=scope, nonfinite="keep")).clip()
    assert model["p0"].grad.isnan().all()
    assert exact_norm([model["p1"].grad]) == pytest.approx(1.0, rel=1e-6)


def test_on_an_accelerator_the_first_nonfinite_step_is_raised_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = with_gradients([torch.ones(2), torch.ones(2)])
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    as_on_an_accelerator(monkeypatch)
    clipper.clip()
    clipper.raise_if_nonfinite()
    for bad in ("p1", "p0"):
        for name, parameter in model.items():
            parameter.grad = torch.full((2,), math.nan if name == bad else 1.0)
        clipper.clip()
    with pytest.raises(NonFiniteGradientError) as error:
        clipper.raise_if_nonfinite()
    assert error.value.names == ["p1"]


def test_finite_gradients_whose_norm_overflows_float64_are_not_dropped() -> None:
    model = with_gradients([torch.tensor([1.5e308], dtype=torch.float64) for _ in range(2)])
    policy = ClipByNorm(max=1.0, scope="parameter", nonfinite="drop")
    assert not Clipper(model.named_parameters(), policy).clip().dropped
    assert [gradient.item() for gradient in copies(model)] == [pytest.approx(1.0), pytest.approx(1.0)]


# -- which gradients


def test_include_and_exclude(model: nn.Module) -> None:
    before = dict(zip([name for name, _ in model.named_parameters()], copies(model), strict=True))
    policy = ClipByNorm(max=0.1, include=["0.*"], exclude=["*.bias"])
    report = Clipper(model.named_parameters(), policy).clip()
    after = dict(zip(before, copies(model), strict=True))
    assert exact_norm([after["0.weight"]]) == pytest.approx(0.1, rel=1e-6)
    for name in ("0.bias", "2.weight", "2.bias"):
        assert torch.equal(before[name], after[name])
    assert report.norms.item() == pytest.approx(exact_norm([before["0.weight"]]), rel=1e-6)
    assert report.before.item() == pytest.approx(exact_norm(list(before.values())), rel=1e-6)
    assert report.after.item() == pytest.approx(exact_norm(list(after.values())), rel=1e-6)


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(model: nn.Module, field: str) -> None:
    with pytest.raises(UnmatchedPatternError, match=rf"{field}.*'nope'.*0\.weight, 0\.bias"):
        Clipper(model.named_parameters(), ClipByNorm(max=1.0, **{field: ["nope"]}))


def test_a_tied_parameter_counts_once() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    first.weight.grad = torch.full((3, 3), 1.0)
    named = [("a", first.weight), ("b", second.weight)]
    report = Clipper(named, ClipByNorm(max=1.5)).clip()
    assert report.before.item() == 3.0
    assert exact_norm([first.weight.grad]) == pytest.approx(1.5, rel=1e-6)  # torch would scale it twice
    assert report.names == ("a",)


def test_parameters_without_a_gradient_are_skipped() -> None:
    used, unused, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    used.grad = torch.tensor([3.0, 4.0])
    report = Clipper([("used", used), ("unused", unused), ("frozen", frozen)], ClipByNorm(max=1.0)).clip()
    assert unused.grad is None
    assert frozen.grad is None
    assert report.by_parameter() == {"used": (5.0, pytest.approx(1.0)), "unused": (0, 0), "frozen": (0, 0)}


def test_no_gradients_at_all_is_not_an_error(model: nn.Module) -> None:
    """Before the first backward every gradient is None."""
    model.zero_grad()
    for policy in (NoClip(), ClipByNorm(max=1.0), ClipByValue(max=1.0)):
        clipper = Clipper(model.named_parameters(), policy)
        with pytest.warns(UserWarning, match="found no gradient"):
            report = clipper.clip()
        assert (report.before.item(), report.after.item()) == (0.0, 0.0)
        clipper.clip()  # warns once


def test_parameters_instead_of_named_parameters_are_refused(model: nn.Module) -> None:
    with pytest.raises(TypeError, match="named_parameters"):
        Clipper(model.parameters(), NoClip())
    with pytest.raises(ValueError, match="no parameters"):
        Clipper(iter([]), NoClip())


def test_patterns_that_select_no_parameter_are_an_error(model: nn.Module) -> None:
    with pytest.raises(InvalidField, match=r"exclude=.*at least one parameter"):
        Clipper(model.named_parameters(), ClipByNorm(max=1.0, exclude=["*"]))


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_complex_parameters_count_by_their_modulus_as_in_torch(norm_type: float) -> None:
    gradients = [torch.tensor([3 + 4j, 1 - 1j, 0j]), torch.tensor([2.0, -7.0])]
    mine, theirs = ([nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients] for _ in range(2))
    for parameters in (mine, theirs):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    clipper = Clipper([("z", mine[0]), ("x", mine[1])], ClipByNorm(max=1.5, norm_type=norm_type))
    report = clipper.clip()
    clipper.check()
    total = clip_grad_norm_(theirs, 1.5, norm_type)
    assert report.norms.item() == pytest.approx(total.item(), rel=1e-6)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("policy", [ClipByValue(max=1.0), SpikeClip()], ids=lambda policy: policy.name)
def test_an_elementwise_policy_refuses_complex_parameters_unless_excluded(policy: Policy) -> None:
    z, x = nn.Parameter(torch.zeros(2, dtype=torch.complex64)), nn.Parameter(torch.zeros(2))
    z.grad, x.grad = torch.tensor([3 + 4j, 0j]), torch.tensor([5.0, 0.5])
    with pytest.raises(TypeError, match=rf"clip={policy.name} cannot limit the elements of z, which are complex"):
        Clipper([("z", z), ("x", x)], policy).clip()
    report = Clipper([("z", z), ("x", x)], replace(policy, exclude=["z"])).clip()
    assert report.by_parameter()["z"] == (5.0, 5.0)
    assert z.grad.tolist() == [3 + 4j, 0j]


# -- non-finite gradients


def test_no_clipping_changes_nothing_even_if_a_gradient_is_nan() -> None:
    model = with_gradients([torch.tensor([math.nan, 1.0]), torch.tensor([5.0])])
    report = Clipper(model.named_parameters(), NoClip(nonfinite="keep")).clip()
    assert model["p1"].grad.item() == 5.0
    assert model["p0"].grad[1].item() == 1.0
    assert report.fraction.item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_error_names_the_nonfinite_parameters_and_changes_nothing(model: nn.Module, bad: float) -> None:
    model[2].bias.grad[1] = bad
    before = copies(model)
    with pytest.raises(NonFiniteGradientError, match=r"2\.bias"):
        Clipper(model.named_parameters(), ClipByNorm(max=1.0)).clip()
    for old, new in zip(before, copies(model), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("policy", [ClipByValue(max=1), ClipByNorm(max=1)])
def test_an_integer_threshold_is_accepted(policy: Policy) -> None:
    model = with_gradients([torch.tensor([3.0, 4.0])])
    Clipper(model.named_parameters(), policy).clip()
    assert model["p0"].grad.abs().max() <= 1


@pytest.mark.parametrize(("dtype", "threshold"), [(torch.float16, 1e5), (torch.float32, 1e39)])
def test_a_threshold_beyond_the_range_of_the_type_limits_nothing(dtype: torch.dtype, threshold: float) -> None:
    model = with_gradients([torch.tensor([3.0, 4.0], dtype=dtype)])
    assert Clipper(model.named_parameters(), ClipByValue(max=threshold)).clip().fraction.item() == 0


def test_sparse_gradients() -> None:
    table = nn.Embedding(6, 2, sparse=True)
    clipper = Clipper(table.named_parameters(), ClipByNorm(max=1.0))
    for rows, squares in (([1, 4, 1], 2 * 4 + 2 * 1), ([0, 2, 3, 5], 4 * 2 * 1)):  # other rows at every step
        table.weight.grad = None
        table(torch.tensor(rows)).sum().backward()
        assert not table.weight.grad.is_coalesced()
        report = clipper.clip()
        clipper.check()
        assert report.before.item() == pytest.approx(math.sqrt(squares))
        assert table.weight.grad.to_dense().norm().item() == pytest.approx(1.0)


@pytest.mark.parametrize("policy", [ClipByNorm(max=1.0), ClipByValue(max=0.5)], ids=lambda policy: policy.name)
@pytest.mark.parametrize("coalesced", [True, False])
@pytest.mark.parametrize("create_graph", [True, False])
def test_sparse_gradients_are_limited_in_place(policy: Policy, coalesced: bool, create_graph: bool) -> None:
    table = nn.Embedding(6, 2, sparse=True)
    loss = table(torch.tensor([1, 4, 1])).square().sum()
    (found,) = torch.autograd.grad(loss, table.weight, create_graph=create_graph)
    table.weight.grad = given = found.coalesce() if coalesced else found
    dense = given.detach().to_dense()
    expected = dense.clamp(-0.5, 0.5) if isinstance(policy, ClipByValue) else dense / dense.norm()
    Clipper(table.named_parameters(), policy).clip()
    assert table.weight.grad.is_sparse
    assert table.weight.grad.is_coalesced()
    assert (table.weight.grad is given) == coalesced  # only a coalesced gradient holds one value per element
    assert table.weight.grad.coalesce().indices().tolist() == [[1, 4]]
    torch.testing.assert_close(table.weight.grad.detach().to_dense(), expected)


def test_a_sparse_gradient_without_a_row() -> None:
    table = nn.Embedding(6, 2, sparse=True)
    table.weight.grad = torch.zeros(6, 2).to_sparse(1)
    assert Clipper(table.named_parameters(), ClipByNorm(max=1.0)).clip().after.item() == 0.0


# -- the self-check


@pytest.mark.parametrize("maximum", [1.0, 1e9])
@pytest.mark.parametrize(
    "change", [Tensor.zero_, lambda gradient: gradient.mul_(1 + 1e-5), lambda gradient: gradient[0].add_(0.1)]
)
def test_check_finds_a_gradient_that_was_changed_in_place(
    model: nn.Module, change: Callable[[Tensor], Tensor], maximum: float
) -> None:
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=maximum))
    clipper.clip()
    change(model[0].weight.grad)
    with pytest.raises(ClipCheckError, match=r"0\.weight: its gradient has norm .* it was changed"):
        clipper.check()


def test_check_finds_a_replaced_gradient(model: nn.Module) -> None:
    """The norm is the same, so only the identity of the tensor shows the change."""
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    clipper.clip()
    kept = model[0].weight.grad
    model[0].weight.grad = -kept
    with pytest.raises(ClipCheckError, match=r"0\.weight: its gradient was changed"):
        clipper.check()


def test_check_accepts_the_rounding_of_many_equal_elements() -> None:
    for step in range(300):
        model = with_gradients([torch.full((768,), 0.1 + 0.0031 * step)])
        clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
        clipper.clip()
        clipper.check()
    model = with_gradients([torch.full((10**6,), 0.1, dtype=torch.float16)])
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0, norm_type=1.0))
    clipper.clip()
    clipper.check()


def test_check_finds_clipping_of_scaled_gradients(model: nn.Module) -> None:
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    clipper.clip()  # too early: the scaler would still divide them
    for parameter in model.parameters():
        parameter.grad /= 1024.0
    with pytest.raises(ClipCheckError, match="changed"):
        clipper.check()


def test_check_finds_clipping_before_backward(model: nn.Module) -> None:
    model.zero_grad()
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    with pytest.warns(UserWarning, match="found no gradient"):
        clipper.clip()
    model(torch.randn(8, 6)).square().sum().backward()
    with pytest.raises(ClipCheckError, match="changed"):
        clipper.check()


def test_check_finds_a_second_backward(model: nn.Module) -> None:
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1e9))
    clipper.clip()
    (1e-3 * model(torch.randn(8, 6)).square().sum()).backward()
    with pytest.raises(ClipCheckError, match="changed"):
        clipper.check()


def test_check_raises_if_clip_was_never_called(model: nn.Module) -> None:
    with pytest.raises(ClipCheckError, match="before clip"):
        Clipper(model.named_parameters(), NoClip()).check()


@dataclass(kw_only=True)
class Negative(LimitPolicy):
    """An error of torch: a negative limit flips the gradients' sign."""

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return -measured.norms, memory


@dataclass(kw_only=True)
class NotANumber(LimitPolicy):
    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms * math.nan, memory


@dataclass(kw_only=True)
class OnACopy(ElementwisePolicy):
    """An error of public code: a copy is changed, and nothing is clamped."""

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        gradient.copy_(2 * gradient)
        return math.inf


@pytest.mark.parametrize("broken", [Negative, NotANumber, OnACopy])
def test_check_finds_a_broken_policy(model: nn.Module, broken: type[Policy]) -> None:
    clipper = Clipper(model.named_parameters(), broken())
    clipper.clip()
    with pytest.raises(ClipCheckError):
        clipper.check()


def test_check_finds_a_clipper_that_does_not_clip(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blocks, "multiply", lambda *_: None)
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=0.1))
    clipper.clip()
    with pytest.raises(ClipCheckError):
        clipper.check()


# -- the report and the state


def test_fraction() -> None:
    model = with_gradients([torch.tensor([0.5, -2.0, 3.0, 0.0])])
    assert Clipper(model.named_parameters(), ClipByValue(max=1.0)).clip().fraction.item() == 0.5
    model = with_gradients([torch.tensor([3.0, 4.0])])
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    assert clipper.clip().fraction.item() == 1.0
    model["p0"].grad = torch.tensor([0.3, 0.4])
    assert clipper.clip().fraction.item() == 0.0


@pytest.mark.parametrize("scope", ["model", "unit"])
def test_a_norm_at_its_limit_does_not_exceed_it(scope: str) -> None:
    model = with_gradients([torch.tensor([[3.0, 4.0]])])
    assert Clipper(model.named_parameters(), ClipByNorm(max=5.0, scope=scope)).clip().fraction.item() == 0.0


def test_a_report_is_not_changed_by_the_next_step(model: nn.Module) -> None:
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    first = clipper.clip()
    figures = first.by_parameter()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clipper.clip()
    assert first.by_parameter() == figures


def test_state_dict(model: nn.Module) -> None:
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    clipper.load_state_dict(clipper.state_dict())
    with pytest.raises(ValueError, match="'norm', not to 'none'"):
        Clipper(model.named_parameters(), NoClip()).load_state_dict(clipper.state_dict())
    with pytest.raises(ValueError, match="written with scope=model, and has scope=layer now"):
        Clipper(model.named_parameters(), ClipByNorm(max=1.0, scope="layer")).load_state_dict(clipper.state_dict())
    by_layer = Clipper(model.named_parameters(), EMAClip(scope="layer"))
    by_layer.clip()
    with pytest.raises(ValueError, match="other blocks: only the saved memory has 0"):
        Clipper(nn.Linear(2, 2), EMAClip(scope="layer")).load_state_dict(by_layer.state_dict())
    longer = nn.Sequential(*model.children(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="other blocks: only the model has 3"):
        Clipper(longer, EMAClip(scope="layer")).load_state_dict(by_layer.state_dict())
    Clipper(longer, ClipByNorm(max=1.0)).load_state_dict(clipper.state_dict())  # remembers nothing of blocks


def test_mixed_precision_in_one_model() -> None:
    model = with_gradients([torch.full((50,), 3.0), torch.full((50,), 3.0, dtype=torch.bfloat16)])
    report = Clipper(model.named_parameters(), ClipByNorm(max=1.0)).clip()
    assert report.before.item() == pytest.approx(30.0, rel=1e-6)
    assert exact_norm(copies(model)) == pytest.approx(report.after.item(), rel=1e-6)
    assert report.after.item() == pytest.approx(1.0, rel=4e-3)


# -- unusual models


def test_an_unpickled_clipper_measures_its_own_gradients() -> None:
    model = nn.Linear(64, 64)
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    clipper.clip()
    model, clipper = pickle.loads(pickle.dumps((model, clipper)))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    assert clipper.clip().before.item() == pytest.approx(exact_norm([torch.full((64 * 65,), 10.0)]), rel=1e-6)
    assert exact_norm(copies(model)) == pytest.approx(1.0, rel=1e-6)


def test_a_model_may_change_its_dtype_between_steps(model: nn.Module) -> None:
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1e-3))
    clipper.clip()
    model.double()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clipper.clip()
    assert exact_norm(copies(model)) == pytest.approx(1e-3, rel=1e-12)


def test_two_parameters_with_the_same_name_are_refused() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"two parameters have the name weight; give them prefixes"):
        Clipper([*one.named_parameters(), *other.named_parameters()], ClipByNorm(max=1.0))


@pytest.mark.parametrize("looks", [True, False])
def test_a_missing_gradient_stays_missing_next_to_a_nan(looks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_gradients([torch.full((3,), math.nan), None])
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=1.0, nonfinite="keep"))
    if not looks:
        as_on_an_accelerator(monkeypatch)
    assert clipper.clip().by_parameter()["p1"] == (0.0, 0.0)
    clipper.check()


def test_a_zero_gradient_never_exceeds_a_limit_of_nan() -> None:
    weight = nn.Parameter(torch.full((3, 3), math.nan))
    weight.grad = torch.zeros(3, 3)
    clipper = Clipper([("weight", weight)], AGC(scope="parameter"))
    assert clipper.clip().fraction == 0
    clipper.check()


@pytest.mark.parametrize("where", ["max", "final"])
def test_a_schedule_needs_finite_ends(where: str) -> None:
    with pytest.raises(InvalidField, match="constant where max or final is infinite"):
        ClipByNorm(**{"max": 1.0, "final": 2.0, "over": 3, "schedule": "linear", where: math.inf})  # type: ignore[arg-type]


# -- policies of users


@dataclass(kw_only=True)
class Counting(LimitPolicy):
    calls: int = 0

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        self.calls += 1
        return measured.norms.new_full(measured.norms.shape, float(self.calls)), memory


class Plain(LimitPolicy):
    """A policy that is not a dataclass itself, with an attribute that is not a field."""

    threshold = 1.0

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, self.threshold), memory


@dataclass(kw_only=True)
class OwnBounds(ElementwisePolicy):
    """A policy with a different bound for each gradient."""

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        return 1e-50 if len(gradient) == 2 else 1e300


@dataclass(kw_only=True)
class Scalar(LimitPolicy):
    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms, {"count": measured.norms.new_zeros(())}


def test_the_clipper_uses_the_given_policy_object_itself() -> None:
    model = with_gradients([torch.full((4,), 100.0)])
    counting, plain = Counting(), Plain()
    clipper = Clipper(model.named_parameters(), counting)
    assert [clipper.clip().limits.item() for _ in range(3)] == [1.0, 2.0, 3.0]
    clipper = Clipper(model.named_parameters(), plain)
    plain.threshold = 0.5
    assert clipper.clip().limits.item() == 0.5


def test_bounds_keep_the_precision_and_range_of_the_gradient() -> None:
    model = with_gradients([torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([1e301, 1.0, 0.0]).double()])
    model["p1"].grad[0] = 1e301
    report = Clipper(model.named_parameters(), OwnBounds()).clip()
    assert model["p0"].grad.tolist() == [1e-50, -1e-50]
    assert model["p1"].grad.tolist() == [1e300, 1.0, 0.0]
    assert report.limits.tolist() == [1e-50, 1e300]


def test_a_policy_must_return_an_entry_per_block(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"its count have the shape \[\], not \[1, …\]"):
        Clipper(model, Scalar()).clip()


def test_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "kind", "scale")
    with pytest.raises(InvalidField, match="kind=scale: must be limit or"):
        Counting()


def test_keep_with_nan_and_inf_makes_everything_nan_as_torch_does() -> None:
    gradients = [torch.tensor([math.nan]), torch.tensor([math.inf]), torch.tensor([3.0])]
    mine, theirs = with_gradients(gradients), with_gradients(gradients)
    report = Clipper(mine.named_parameters(), ClipByNorm(max=1.0, nonfinite="keep")).clip()
    assert clip_grad_norm_(theirs.parameters(), 1.0).isnan()
    assert report.before.isnan()
    for one, other in zip(copies(mine), copies(theirs), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_changes_of_a_replaced_policy_are_followed() -> None:
    model = with_gradients([torch.full((4,), 100.0)])
    clipper = Clipper(model.named_parameters(), Plain())
    clipper.policy = other = Plain()
    clipper.clip()
    other.threshold = 0.5
    assert clipper.clip().limits.item() == 0.5


def test_a_changed_chain_is_validated(model: nn.Module) -> None:
    chain = Chain(links={"norm": ClipByNorm(max=1.0)})
    clipper = Clipper(model, chain)
    chain.nonfinite = "skip"
    with pytest.raises(InvalidField, match="nonfinite=skip"):
        clipper.clip()


def test_a_memory_of_elements_of_another_model_is_refused(model: nn.Module) -> None:
    clipper = Clipper(model, SpikeClip())
    clipper.clip()
    with pytest.raises(ValueError, match=r"other blocks: only the saved memory has 0\.bias"):
        Clipper(nn.Linear(2, 2), SpikeClip()).load_state_dict(clipper.state_dict())


@dataclass(kw_only=True)
class MissingRow(EMAClip):
    """A policy whose second memory lacks a row."""

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        limits, after = super().limits(measured, memory)
        return limits, {name: tensor[1:] for name, tensor in after.items()} if memory else after


def test_a_refused_memory_is_not_stored(model: nn.Module) -> None:
    clipper = Clipper(model, MissingRow())
    clipper.clip()
    before = clipper.state_dict()[""]["memory"]
    with pytest.raises(ValueError, match="its count have"):
        clipper.clip()
    assert clipper.state_dict()[""]["memory"] == before


def test_a_policy_that_measures_no_blocks_is_refused() -> None:
    class Other(Policy):
        pass

    with pytest.raises(TypeError, match="Other: a policy derives from LimitPolicy or BlockPolicy"):
        Clipper(nn.Linear(2, 1), Other())
