"""Changes after the construction of a Clipper take effect at the next `clip()`, or `check()` names them.

Expected norms and gradients are those of torch's `clip_grad_norm_` over float64 copies of the current parameters.
"""

import copy
import io
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import clip_grad_norm_, parametrizations, prune

from gradclip import (
    AGC,
    AutoClip,
    Chain,
    ClipByNorm,
    ClipByRMS,
    ClipByValue,
    ClipCheckError,
    Clipper,
    ClipReport,
    DropStep,
    EMAClip,
    InvalidField,
    NonFiniteGradientError,
    Policy,
    SpikeClip,
    UnmatchedPatternError,
    ZClip,
    functional,
)
from tests.gradclip.support import as_on_an_accelerator
from tests.support import exact_norm, with_gradients

MAX = 0.5


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))


def fill(model: nn.Module, size: float = 1.0) -> None:
    """Sets new random gradients for all parameters that require one."""
    for parameter in model.parameters():
        drawn = size * torch.randn(parameter.shape, device="cpu")
        parameter.grad = drawn.to(parameter.dtype) if parameter.requires_grad else None


def in_float64(model: nn.Module) -> dict[str, nn.Parameter]:
    """Copies the parameters that have a gradient, and their gradients, in float64."""
    copies = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            copies[name] = nn.Parameter(parameter.detach().double(), requires_grad=False)
            copies[name].grad = parameter.grad.to(torch.float64, copy=True)
    return copies


def assert_gradients(model: nn.Module, expected: dict[str, nn.Parameter]) -> None:
    for name, parameter in model.named_parameters():
        if name in expected:
            rounding = max(2 * torch.finfo(parameter.dtype).eps, 1e-5)  # torch divides by the norm + 1e-6
            torch.testing.assert_close(parameter.grad.double(), expected[name].grad, rtol=rounding, atol=1e-30)
        else:
            assert parameter.grad is None


def clip_as_torch(clipper: Clipper, model: nn.Module, norm_type: float = 2.0) -> ClipReport:
    """Clips the model to MAX, by the Clipper and by torch; asserts that both agree and that `check()` passes."""
    expected = in_float64(model)
    total = clip_grad_norm_(expected.values(), MAX, norm_type)
    assert total > MAX
    report = clipper.clip()
    clipper.check()
    assert report.norms.item() == pytest.approx(total.item(), rel=1e-6)
    assert report.before.item() > report.after.item() > 0
    assert_gradients(model, expected)
    return report


def started(model: nn.Module, policy: Policy | None = None, **options: Any) -> Clipper:
    """Makes a Clipper and clips the model once."""
    clipper = Clipper(model, policy or ClipByNorm(max=MAX), **options)
    fill(model)
    clipper.clip()
    return clipper


# -- 1. another device


def through_meta(module: nn.Module) -> None:
    module.to("meta")
    module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.1)


@pytest.mark.parametrize("part", ["", "0", "2.weight"])
def test_a_model_that_moved_to_another_device_is_clipped_there(model: nn.Sequential, part: str) -> None:
    clipper = started(model)
    if part == "2.weight":
        model[2].weight = nn.Parameter(torch.empty_like(model[2].weight, device="meta"))
        model[2].weight = nn.Parameter(torch.empty_like(model[2].weight, device="cpu"))
    else:
        through_meta(model.get_submodule(part))
    fill(model)
    clip_as_torch(clipper, model)


def test_a_clipper_of_a_model_on_the_meta_device_clips_it_once_it_is_on_the_cpu() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    clipper = Clipper(model, ClipByNorm(max=MAX))
    model.to_empty(device="cpu")
    fill(model)
    clip_as_torch(clipper, model)


def test_a_module_without_gradients_on_another_device_does_not_hide_a_nan(model: nn.Sequential) -> None:
    clipper = started(model)
    model[4].to("meta")
    fill(model[:4])
    for parameter in model[4].parameters():
        parameter.grad = None
    clip_as_torch(clipper, model)
    model[0].bias.grad[0] = math.nan
    with pytest.raises(NonFiniteGradientError, match=r"0\.bias"):
        clipper.clip()


def test_without_gradients_the_report_is_not_on_the_meta_device(model: nn.Sequential) -> None:
    model[0].to("meta")
    clipper = Clipper(model, ClipByNorm(max=MAX))
    with pytest.warns(UserWarning, match="found no gradient"):
        report = clipper.clip()
    assert report.before.item() == report.after.item() == 0.0


@pytest.mark.parametrize("policy", [ClipByNorm(max=MAX, scope="unit"), ClipByValue(max=MAX), AGC(), AutoClip()])
def test_every_kind_of_policy_follows_a_model_to_another_device(model: nn.Sequential, policy: Policy) -> None:
    clipper = started(model, policy)
    through_meta(model)
    fill(model)
    before = exact_norm([parameter.grad for parameter in model.parameters()])
    report = clipper.clip()
    clipper.check()
    assert report.before.item() == pytest.approx(before, rel=1e-6)
    assert report.after.item() == pytest.approx(exact_norm([p.grad for p in model.parameters()]), rel=1e-6)


# -- 2. another dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("part", ["", "2", "4"])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_a_module_that_changed_its_dtype(model: nn.Sequential, part: str, dtype: torch.dtype, norm_type: float) -> None:
    clipper = started(model, ClipByNorm(max=MAX, norm_type=norm_type))
    model.get_submodule(part).to(dtype)
    fill(model)
    clip_as_torch(clipper, model, norm_type)
    model.float()
    fill(model)
    clip_as_torch(clipper, model, norm_type)


@pytest.mark.parametrize("scope", ["model", "parameter", "unit"])
@pytest.mark.parametrize(("of_parameter", "of_gradient"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_gradients_of_another_dtype_than_their_parameters(scope: str, of_parameter: str, of_gradient: str) -> None:
    parameter = nn.Parameter(torch.zeros(40, 30, dtype=getattr(torch, of_parameter)))
    parameter.grad_dtype = None  # any
    parameter.grad = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).to(getattr(torch, of_gradient))
    clipper = Clipper([("p", parameter)], ClipByNorm(max=MAX, scope=scope))
    report = clipper.clip()
    clipper.check()
    assert report.after.item() == pytest.approx(exact_norm([parameter.grad]), rel=1e-6)
    assert parameter.grad.dtype == getattr(torch, of_gradient)


def test_another_default_dtype_changes_no_norm(model: nn.Sequential) -> None:
    clipper = started(model)
    torch.set_default_dtype(torch.bfloat16)
    try:
        fill(model)
        assert clip_as_torch(clipper, model).before.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# -- 3. another shape, in place


@pytest.mark.parametrize("shape", [(9, 5), (2, 5), (5, 8), (3, 2, 4), (7,), ()], ids=str)
def test_a_parameter_that_grew_or_shrank_in_place(model: nn.Sequential, shape: tuple[int, ...]) -> None:
    clipper = started(model)
    model[2].weight.data, model[2].weight.grad = torch.ones(shape), None
    fill(model)
    clip_as_torch(clipper, model)


def test_one_of_two_parameters_of_equal_shape_grew() -> None:
    model = with_gradients([torch.ones(20, 30), torch.ones(20, 30)])
    clipper = Clipper(model, ClipByNorm(max=MAX))
    clipper.clip()
    model["p1"].data, model["p1"].grad = torch.zeros(40, 30), None
    fill(model)
    clip_as_torch(clipper, model)


@pytest.mark.parametrize("policy", [ClipByNorm(max=MAX, scope="unit"), ClipByRMS(max=MAX, scope="unit")])
def test_units_are_those_of_the_new_shape(model: nn.Sequential, policy: Policy) -> None:
    clipper = started(model, policy)
    model[2].weight.data, model[2].weight.grad = torch.zeros(7, 3), None
    fill(model)
    rows = [row for p in model.parameters() for row in (p.grad.double() if p.dim() > 1 else p.grad.double()[None])]
    report = clipper.clip()
    clipper.check()
    assert report.norms.tolist() == pytest.approx([exact_norm([row]) for row in rows], rel=1e-6)
    maxima = [MAX * (len(row) ** 0.5 if policy.name == "rms" else 1) for row in rows]
    assert report.limits.tolist() == pytest.approx(maxima, rel=1e-6)


def test_a_gradient_of_the_previous_shape_is_named(model: nn.Sequential) -> None:
    clipper = started(model, ClipByNorm(max=MAX, scope="unit"))
    model[2].weight.data = torch.zeros(7, 5)  # the gradient has 5 rows
    with pytest.raises(ValueError, match=r"scope=unit cannot take the gradient of 2\.weight.*shape has changed"):
        clipper.clip()


def test_elementwise_policies_follow_a_changed_shape(model: nn.Sequential) -> None:
    clipper = started(model, SpikeClip(warmup=0, theta=1e-6))
    model[2].weight.data, model[2].weight.grad = torch.zeros(7, 3), None
    fill(model)
    given = model[2].weight.grad.clone()
    clipper.clip()
    clipper.check()
    assert torch.equal(model[2].weight.grad, given)  # no mean square is known of its elements
    assert model[0].weight.grad.abs().max() < 0.01  # theirs is


# -- 4. another parameter


def replace_weight(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(torch.zeros(4, 5))


def add_to_module_list(model: nn.Sequential) -> None:
    model[4] = nn.ModuleList([nn.Linear(5, 2)])
    model[4].append(nn.Linear(2, 2))


def tie(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(torch.zeros(6, 5))
    model[4].weight = model[2].weight


REPLACEMENTS: list[Callable[[nn.Sequential], object]] = [
    replace_weight,
    add_to_module_list,
    tie,
    lambda model: model.to_empty(device="cpu"),
    lambda model: parametrizations.weight_norm(model[2]),
    lambda model: parametrizations.spectral_norm(model[2]),
    lambda model: prune.l1_unstructured(model[2], "weight", 0.5),
    lambda model: model.append(nn.Linear(2, 9)),
    lambda model: model.pop(2),
    lambda model: setattr(model[2], "bias", None),
    lambda model: model.register_parameter("scale", nn.Parameter(torch.ones(()))),
]


@pytest.mark.parametrize("change", REPLACEMENTS, ids=range(len(REPLACEMENTS)))
def test_a_model_whose_parameters_were_replaced(model: nn.Sequential, change: Callable[[nn.Sequential], Any]) -> None:
    clipper = started(model)
    change(model)
    fill(model)
    report = clip_as_torch(clipper, model)
    assert len(report.names) == len(list(model.parameters()))


def test_weight_norm_after_construction_is_trained_and_clipped(model: nn.Sequential) -> None:
    clipper = started(model)
    parametrizations.weight_norm(model[2])
    model.zero_grad()
    (10 * model(torch.randn(8, 6))).square().sum().backward()
    names = clip_as_torch(clipper, model).names
    assert {f"2.parametrizations.weight.original{number}" for number in (0, 1)} <= {*names}


def test_a_lazy_layer_that_was_initialized_after_construction() -> None:
    model = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 2))
    clipper = Clipper(model, ClipByNorm(max=MAX))
    (100 * model(torch.randn(8, 6))).square().sum().backward()
    clip_as_torch(clipper, model)


def test_a_model_that_was_sharded_after_construction(model: nn.Sequential) -> None:
    clipper = started(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        model.zero_grad()
        (10 * model(torch.randn(8, 6))).square().sum().backward()
        whole = {name: nn.Parameter(parameter.full_tensor().double()) for name, parameter in model.named_parameters()}
        for name, parameter in model.named_parameters():
            whole[name].grad = parameter.grad.full_tensor().double()
        total = clip_grad_norm_(whole.values(), MAX)
        report = clipper.clip()
        clipper.check()
        assert report.before.item() == pytest.approx(total.item(), rel=1e-6)
        for name, parameter in model.named_parameters():
            found = parameter.grad.full_tensor().double()
            torch.testing.assert_close(found, whole[name].grad, rtol=1e-5, atol=1e-30)
    finally:
        distributed.destroy_process_group()


def test_a_model_that_lost_all_its_parameters_is_refused(model: nn.Sequential) -> None:
    clipper = started(model)
    del model[:]
    with pytest.raises(ValueError, match="the Clipper has no parameters"):
        clipper.clip()


@pytest.mark.parametrize("change", ["replace", "append"])
def test_a_gradient_outside_a_clippers_list_is_named(model: nn.Sequential, change: str) -> None:
    """The list is fixed; a gradient outside it that the optimizer would use is found."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = Clipper(model.named_parameters(), ClipByNorm(max=MAX), optimizer=optimizer)
    if change == "replace":
        model[2].weight = nn.Parameter(torch.zeros(4, 5))
        optimizer.param_groups[0]["params"][2] = model[2].weight
        expected = "parameter 2 of group 0 of SGD, of shape [4, 5]"
    else:
        model.append(nn.Linear(2, 9))
        optimizer.add_param_group({"params": model[5].parameters()})
        expected = "parameter 0 of group 1 of SGD, of shape [9, 2]"
    fill(model)
    clipper.clip()
    with pytest.raises(ClipCheckError, match=re.escape(expected)):
        clipper.check()


def test_a_replaced_parameter_that_only_the_optimizer_still_has_is_named(model: nn.Sequential) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    clipper = started(model, optimizer=optimizer)
    old, model[0].bias = model[0].bias, nn.Parameter(torch.zeros(5))
    fill(model)
    assert old.grad is not None
    clipper.clip()
    with pytest.raises(ClipCheckError, match=r"parameter 1 of group 0 of Adam, of shape \[5\]"):
        clipper.check()


def test_a_parameter_added_after_clip_is_named(model: nn.Sequential) -> None:
    clipper = started(model)
    model.append(nn.Linear(2, 2, bias=False))
    with pytest.raises(ClipCheckError, match=r"5\.weight: the parameter was added after clip"):
        clipper.check()
    del model[5]
    clipper.check()
    del model[4].bias
    with pytest.raises(ClipCheckError, match=r"4\.bias: the parameter was removed after clip"):
        clipper.check()


# -- 5. unfrozen, or new in the optimizer


@pytest.mark.parametrize("scope", ["model", "group"])
def test_unfrozen_parameters_are_clipped(model: nn.Sequential, scope: str) -> None:
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = started(model, ClipByNorm(max=MAX, scope=scope), optimizer=optimizer)
    model[0].requires_grad_(True)
    fill(model)
    assert clip_as_torch(clipper, model).by_parameter()["0.weight"][0] > 0


def test_gradual_unfreezing_with_add_param_group(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2:].parameters(), lr=0.1)
    clipper = started(model, ClipByNorm(max=MAX, scope="group"), optimizer=optimizer)
    model[0].requires_grad_(True)
    fill(model)
    with pytest.raises(ValueError, match=r'scope="group": 0\.weight is in no parameter group of the optimizer'):
        clipper.clip()
    optimizer.add_param_group({"params": model[0].parameters()})
    expected = [exact_norm([p.grad for p in part.parameters()]) for part in (model[0], model[2:])]
    report = clipper.clip()
    clipper.check()
    assert sorted(report.norms.tolist()) == pytest.approx(sorted(expected), rel=1e-6)
    for part in (model[0], model[2:]):
        assert exact_norm([p.grad for p in part.parameters()]) == pytest.approx(MAX, rel=1e-6)


def test_a_parameter_that_moves_to_another_group_is_measured_there(model: nn.Sequential) -> None:
    groups = [{"params": list(model[number].parameters())} for number in (0, 2, 4)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    clipper = started(model, ClipByNorm(max=MAX, scope="group"), optimizer=optimizer)
    optimizer.param_groups[0]["params"].append(optimizer.param_groups[2]["params"].pop())
    fill(model)
    expected = [exact_norm([p.grad for p in group["params"]]) for group in optimizer.param_groups]
    report = clipper.clip()
    clipper.check()
    assert report.norms.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_parameter_that_joins_the_second_optimizer_alone_is_named(model: nn.Sequential) -> None:
    one, other = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2:].parameters())
    clipper = started(model, optimizer=[one, other])
    clipper.check()
    stray = nn.Parameter(torch.zeros(3, 4, 5))
    other.add_param_group({"params": [stray]})
    clipper.check()  # it has no gradient, and would not be stepped
    stray.grad = torch.ones(3, 4, 5)
    with pytest.raises(ClipCheckError, match=r"parameter 0 of group 1 of Adam, of shape \[3, 4, 5\]"):
        clipper.check()


# -- 6. exhausted iterators


@pytest.mark.parametrize("again", [lambda model: model.named_parameters(), lambda model: filter(None, [])])
def test_a_clipper_refuses_an_exhausted_iterator(model: nn.Sequential, again: Callable[..., Iterator[Any]]) -> None:
    named = again(model)
    list(named)
    with pytest.raises(ValueError, match="no parameters; an iterator can be read only once"):
        Clipper(named, ClipByNorm(max=MAX))


def test_an_iterator_can_be_used_for_every_step(model: nn.Sequential) -> None:
    clipper = Clipper(((name, p) for name, p in model.named_parameters()), ClipByNorm(max=MAX))
    for _ in range(3):
        fill(model)
        clip_as_torch(clipper, model)


@pytest.mark.parametrize("name", ["clip_grad_norm_", "clip_grad_value_"])
@pytest.mark.parametrize("make", [lambda model: model.parameters(), lambda model: iter([*model.parameters()])])
def test_the_functions_warn_about_an_exhausted_iterator(
    model: nn.Sequential, name: str, make: Callable[..., Iterator[Any]]
) -> None:
    fill(model)
    parameters = make(model)
    getattr(functional, name)(parameters, MAX)
    fill(model)
    with pytest.warns(UserWarning, match="iterator gives no parameters, and nothing is clipped"):
        getattr(functional, name)(parameters, MAX)


def test_the_functions_accept_an_empty_list_without_a_warning() -> None:
    assert functional.clip_grad_norm_([], 1.0).item() == clip_grad_norm_([], 1.0).item() == 0.0
    functional.clip_grad_value_([], 1.0)


# -- 7. no gradient at all


@pytest.mark.parametrize("policy", [ClipByNorm(max=MAX), ClipByNorm(max=MAX, scope="unit"), ClipByValue(max=MAX)])
def test_no_gradient_at_all_warns_once(model: nn.Sequential, policy: Policy) -> None:
    clipper = Clipper(model, policy)
    with pytest.warns(UserWarning, match="found no gradient") as caught:
        clipper.clip()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    clipper.clip()  # a warning would be an error here
    clipper.check()


def test_the_functions_return_0_without_gradients_and_warn_once(model: nn.Sequential) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            assert functional.clip_grad_norm_(model.parameters(), MAX).item() == 0.0
    assert [str(warning.message)[:25] for warning in caught] == ["clip() found no gradient:"]


def test_gradients_that_come_after_an_empty_step_are_clipped(model: nn.Sequential) -> None:
    clipper = Clipper(model, ClipByNorm(max=MAX))
    with pytest.warns(UserWarning, match="found no gradient"):
        clipper.clip()
    fill(model)
    clip_as_torch(clipper, model)
    model.requires_grad_(False)
    fill(model)
    assert clipper.clip().before.item() == 0.0


def test_a_step_without_gradients_changes_no_memory(model: nn.Sequential) -> None:
    clipper = started(model, EMAClip(warmup=1))
    memory = clipper.state_dict()[""]["memory"]
    model.zero_grad()
    with pytest.warns(UserWarning, match="found no gradient"):
        clipper.clip()
    for name, kept in clipper.state_dict()[""]["memory"].items():
        assert torch.equal(kept, memory[name])


# -- 8. modes of torch around construction and clip()


def modes() -> dict[str, Callable[[], AbstractContextManager[object]]]:
    class DefaultDevice:
        def __enter__(self) -> None:
            torch.set_default_device("meta")

        def __exit__(self, *_: object) -> None:
            torch.set_default_device(None)

    return {
        "inference": torch.inference_mode,
        "device": lambda: torch.device("meta"),
        "default device": DefaultDevice,
        "no grad": torch.no_grad,
    }


POLICIES = [
    ClipByNorm(max=MAX),
    ClipByNorm(max=MAX, scope="unit"),
    ClipByValue(max=MAX),
    EMAClip(warmup=1),
    AutoClip(window=0),
    ZClip(warmup=1, scope="parameter"),
    SpikeClip(warmup=1),
    AGC(),
]


@pytest.mark.parametrize("mode", modes())
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.name}-{policy.scope}")
def test_the_modes_of_torch_change_nothing(mode: str, policy: Policy) -> None:
    """Tensors that were made inside a mode can be used outside of it, and vice versa."""
    results = []
    for inside in ([False] * 4, [True, True, False, True], [False, True, True, False]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
        clipper, reports = None, []
        for within in inside:
            fill(model, 10.0 if clipper else 1.0)
            with modes()[mode]() if within else torch.enable_grad():
                clipper = clipper or Clipper(model, policy)
                reports.append(clipper.clip())
                clipper.check()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        assert all(report.before.device.type == "cpu" for report in reports)
        results.append((gradients, [report.after.item() for report in reports]))
    for gradients, after in results[1:]:
        assert after == results[0][1]
        assert all(map(torch.equal, gradients, results[0][0]))


@pytest.mark.parametrize("mode", modes())
def test_the_norm_inside_a_mode_is_torchs(model: nn.Sequential, mode: str) -> None:
    clipper = started(model)
    fill(model)
    expected = in_float64(model)
    total = clip_grad_norm_(expected.values(), MAX)
    with modes()[mode]():
        report = clipper.clip()
        clipper.check()
    assert report.before.item() == pytest.approx(total.item(), rel=1e-6)
    assert_gradients(model, expected)


@pytest.mark.parametrize("mode", modes())
def test_a_memory_from_inside_a_mode_is_saved_copied_and_loaded(model: nn.Sequential, mode: str) -> None:
    with modes()[mode]():
        clipper = Clipper(model, EMAClip(warmup=1))
        fill(model)
        clipper.clip()
    written = io.BytesIO()
    torch.save(clipper.state_dict(), written)
    written.seek(0)
    fresh = Clipper(model, EMAClip(warmup=1))
    with modes()[mode]():
        fresh.load_state_dict(torch.load(written, map_location="cpu"))
    fill(model, 100.0)
    other, copied = copy.deepcopy((model, clipper))
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        another.grad = one.grad.clone()
    assert fresh.clip().after.item() == copied.clip().after.item()
    model.append(nn.Linear(2, 2))
    fill(model)
    clipper.clip()  # the memory grows by two blocks
    clipper.check()


# -- 9. a policy that is changed or shared


def test_a_changed_limit_is_used_at_the_next_step(model: nn.Sequential) -> None:
    policy = ClipByNorm(max=1e9)
    clipper = started(model, policy)
    policy.max = MAX
    fill(model)
    clip_as_torch(clipper, model)


def test_a_policy_may_be_replaced(model: nn.Sequential) -> None:
    clipper = started(model, ClipByValue(max=1.0))
    clipper.policy = ClipByNorm(max=MAX)
    fill(model)
    clip_as_torch(clipper, model)
    fill(model)
    clipper.policy.exclude.append("2.*")
    given = model[2].weight.grad.clone()
    clipper.clip()
    clipper.check()
    assert torch.equal(model[2].weight.grad, given)
    assert exact_norm([p.grad for n, p in model.named_parameters() if n[0] != "2"]) == pytest.approx(MAX, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max", -1.0, "max=-1.0: must be a number above 0"),
        ("max", math.nan, "max=nan: must be"),
        ("norm_type", 0.0, "norm_type=0.0: must be"),
        ("scope", "planet", "scope=planet: must be"),
        ("nonfinite", "ignore", "nonfinite=ignore: must be"),
        ("schedule", "linear", "schedule=linear: must be constant unless max, final and over are given"),
    ],
)
def test_a_policy_that_became_invalid_is_refused_and_changes_nothing(
    model: nn.Sequential, field: str, value: Any, message: str
) -> None:
    policy = ClipByNorm(max=MAX)
    clipper = started(model, policy)
    kept, _ = getattr(policy, field), setattr(policy, field, value)
    fill(model)
    given = [parameter.grad.clone() for parameter in model.parameters()]
    for _ in range(2):
        with pytest.raises(InvalidField, match=re.escape(message)):
            clipper.clip()
        with pytest.raises(ClipCheckError, match="before clip"):
            clipper.check()
    assert all(map(torch.equal, given, [parameter.grad for parameter in model.parameters()]))
    setattr(policy, field, kept)
    clip_as_torch(clipper, model)


def test_a_link_of_a_chain_that_became_invalid_is_refused(model: nn.Sequential) -> None:
    policy = Chain(links={"a": ClipByValue(max=1.0), "b": ClipByNorm(max=MAX)})
    clipper = started(model, policy)
    policy.links["b"].max = 0.0
    with pytest.raises(InvalidField, match=r"max=0\.0: must be a number above 0"):
        clipper.clip()
    policy.links["b"] = ClipByNorm(max=2 * MAX)
    fill(model)
    clipper.clip()
    clipper.check()
    assert exact_norm([p.grad for p in model.parameters()]) == pytest.approx(2 * MAX, rel=1e-6)


def test_a_pattern_that_was_added_and_matches_nothing_is_refused(model: nn.Sequential) -> None:
    policy = ClipByNorm(max=MAX)
    clipper = started(model, policy)
    policy.include.append("head.*")
    with pytest.raises(UnmatchedPatternError, match=r"include: the pattern 'head\.\*' matches no parameter"):
        clipper.clip()


@pytest.mark.parametrize(
    ("policy", "option", "value"),
    [
        (AutoClip(window=5), "window", 7),
        (AutoClip(window=5), "window", 0),
        (AutoClip(), "scope", "layer"),
        (AutoClip(), "norm_type", 1.0),
        (EMAClip(warmup=1), "scope", "model"),
        (EMAClip(warmup=1), "warmup", 2),
        (ZClip(), "warmup", 3),
        (SpikeClip(), "warmup", 3),
    ],
)
def test_an_option_that_the_memory_depends_on_cannot_be_changed(
    model: nn.Sequential, policy: Policy, option: str, value: Any
) -> None:
    policy = replace(policy)
    clipper = Clipper(model, policy)
    old, _ = getattr(policy, option), setattr(policy, option, value)
    fill(model)
    clipper.clip()  # there is no memory yet
    setattr(policy, option, old)
    with pytest.raises(ValueError, match=rf"{option}={value}, and has {option}={old} now$") as error:
        clipper.clip()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [(ZClip(warmup=5, scope="parameter"), EMAClip(warmup=5)), (EMAClip(), AutoClip()), (SpikeClip(), EMAClip())],
)
def test_another_policy_starts_with_an_empty_memory(model: nn.Sequential, first: Policy, second: Policy) -> None:
    clipper = Clipper(model, first)
    for _ in range(8):
        fill(model)
        clipper.clip()
    clipper.policy = second
    fresh = Clipper(model, second)
    for _ in range(8):
        fill(model)
        given = [parameter.grad.clone() for parameter in model.parameters()]
        expected = fresh.clip()
        for parameter, gradient in zip(model.parameters(), given, strict=True):
            parameter.grad = gradient
        assert torch.equal(clipper.clip().limits, expected.limits)
        clipper.check()


def test_two_clippers_with_the_same_policy_have_separate_memories() -> None:
    policy = EMAClip(warmup=1, ratio=2.0)
    models = [with_gradients([torch.full((4,), size)]) for size in (1.0, 1000.0)]
    clippers = [Clipper(model, policy) for model in models]
    for clipper in clippers:
        clipper.clip()
    assert [clipper.clip().limits.item() for clipper in clippers] == pytest.approx([4.0, 4000.0], rel=1e-6)
    policy.ratio = 0.5
    for clipper, limit in zip(clippers, (1.0, 1000.0), strict=True):
        assert clipper.clip().limits.item() == pytest.approx(limit, rel=1e-6)
        clipper.check()


# -- 10. a state of other options


@pytest.mark.parametrize(
    ("policy", "option", "value"),
    [
        (AutoClip(window=5), "window", 7),
        (AutoClip(window=5), "window", 0),
        (AutoClip(), "norm_type", math.inf),
        (AutoClip(), "scope", "parameter"),
        (EMAClip(), "scope", "layer"),
        (EMAClip(), "norm_type", 1.0),
        (EMAClip(), "warmup", 7),
        (ZClip(), "warmup", 7),
        (SpikeClip(), "warmup", 7),
        (ClipByNorm(max=1.0), "norm_type", 1.0),
    ],
)
def test_a_state_of_other_options_is_refused(model: nn.Sequential, policy: Policy, option: str, value: Any) -> None:
    state = started(model, policy).state_dict()
    other = Clipper(model, replace(policy, **{option: value}))
    before = pickle.dumps(other.state_dict())
    with pytest.raises(
        ValueError, match=rf"written with {option}={getattr(policy, option)}.*{option}={value} now$"
    ) as e:
        other.load_state_dict(state)
    assert "\n" not in str(e.value)
    assert pickle.dumps(other.state_dict()) == before


def test_a_state_of_elements_of_another_shape_is_refused(model: nn.Sequential) -> None:
    state = started(model, SpikeClip()).state_dict()
    other = nn.Sequential(*map(copy.deepcopy, model))
    other[2].weight = nn.Parameter(torch.zeros(7, 5))
    with pytest.raises(ValueError, match=r"2\.weight"):
        Clipper(other, SpikeClip()).load_state_dict(state)


def test_a_state_that_is_refused_in_one_link_changes_no_other(model: nn.Sequential) -> None:
    state = started(model, Chain(links={"a": EMAClip(), "b": AutoClip(window=5)})).state_dict()
    other = Clipper(model, Chain(links={"a": EMAClip(), "b": AutoClip(window=6)}))
    with pytest.raises(ValueError, match="written with window=5, and has window=6 now"):
        other.load_state_dict(state)
    assert other.state_dict()["a"]["step"] == 0
    assert not other.state_dict()["a"]["memory"]


def test_a_state_that_fits_may_have_another_limit(model: nn.Sequential) -> None:
    """A threshold, which may be changed on resume, does not affect the memory."""
    state = started(model, AutoClip(window=5, percentile=10.0)).state_dict()
    other = Clipper(model, AutoClip(window=5, percentile=90.0, max=3.0))
    other.load_state_dict(state)
    assert other.state_dict()[""]["step"] == 1


# -- 11. names under wrappers, and memory of a changing model


class Wrapped(nn.Module):
    """A module that holds a model as a child, as torch.compile, DDP and FSDP do."""

    def __init__(self, name: str, model: nn.Module):
        super().__init__()
        self.add_module(name, model)


def with_compiled_child(model: nn.Sequential) -> nn.Module:
    model[2] = Wrapped("_orig_mod", model[2])  # type: ignore[assignment]
    return model


WRAPPERS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),  # type: ignore[dict-item, return-value]
    "compiled inside": with_compiled_child,
    "module": lambda model: Wrapped("module", model),
    "data parallel": nn.DataParallel,
    "fsdp": lambda model: Wrapped("_fsdp_wrapped_module", model),
    "checkpoint": lambda model: Wrapped("_checkpoint_wrapped_module", model),
    "compiled data parallel": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),  # type: ignore[dict-item, return-value]
    "data parallel, compiled": lambda model: Wrapped("module", Wrapped("_orig_mod", model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_are_those_of_the_model_without_wrappers(model: nn.Sequential, wrapper: str) -> None:
    plain = tuple(name for name, _ in model.named_parameters())
    fill(model)
    norms = {name: exact_norm([parameter.grad]) for name, parameter in model.named_parameters()}
    wrapped = WRAPPERS[wrapper](model)
    assert tuple(name for name, _ in wrapped.named_parameters()) != plain
    for source in (wrapped, wrapped.named_parameters()):
        report = Clipper(source, ClipByNorm(max=100.0, include=["0.*", "2.*"], exclude=["2.bias"])).clip()
        assert report.names == plain
        assert {n: before for n, (before, _) in report.by_parameter().items()} == pytest.approx(norms, rel=1e-6)
        assert report.norms.item() == pytest.approx(
            math.hypot(*(norms[name] for name in ("0.weight", "0.bias", "2.weight"))), rel=1e-6
        )


def test_submodules_may_be_wrapped() -> None:
    """A submodule of the model that is called `module` keeps its name."""
    parts = nn.ModuleDict({"generator": nn.Linear(3, 2), "other": nn.ModuleDict({"module": nn.Linear(2, 1)})})
    state = started(copy.deepcopy(parts), EMAClip(warmup=1)).state_dict()
    parts["generator"] = nn.DataParallel(parts["generator"])
    clipper = Clipper(parts, EMAClip(warmup=1))
    clipper.load_state_dict(state)
    fill(parts)
    assert clipper.clip().names == ("generator.weight", "generator.bias", "other.module.weight", "other.module.bias")


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("policy", [EMAClip(warmup=1), SpikeClip(warmup=1), EMAClip(warmup=1, scope="layer")])
def test_a_state_from_a_wrapped_model_fits_the_plain_one(model: nn.Sequential, wrapper: str, policy: Policy) -> None:
    other = copy.deepcopy(model)
    wrapped = started(WRAPPERS[wrapper](other), policy)
    clipper = Clipper(model, policy)
    clipper.load_state_dict(wrapped.state_dict())
    fill(model, 100.0)
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        another.grad = one.grad.clone()
    assert clipper.clip().after.item() == wrapped.clip().after.item()
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, another.grad)


def test_an_error_names_the_parameter_without_wrappers(model: nn.Sequential) -> None:
    fill(model)
    model[2].bias.grad[0] = math.nan
    with pytest.raises(NonFiniteGradientError, match=r"in 2\.bias$"):
        Clipper(Wrapped("_orig_mod", model), ClipByNorm(max=MAX)).clip()


MEMORIES = [
    EMAClip(warmup=1),
    EMAClip(warmup=1, scope="layer"),
    AutoClip(window=4, scope="parameter", percentile=50.0),
    AutoClip(window=0, scope="parameter", percentile=50.0),
    ZClip(warmup=2, scope="parameter", max=None),
    SpikeClip(warmup=1, theta=4.0),
]


def wrap_inside(model: nn.ModuleDict) -> None:
    model["kept"] = Wrapped("_orig_mod", model["kept"])


def wrap_all(model: nn.ModuleDict) -> None:
    inner = nn.ModuleDict({name: model.pop(name) for name in list(model)})
    model["module"] = inner


def join_first(model: nn.ModuleDict) -> None:
    model["another"] = nn.Linear(2, 2)
    model["kept"] = model.pop("kept")


CHANGES: dict[str, Callable[[nn.ModuleDict], object]] = {
    "joins": lambda model: model.add_module("another", nn.Linear(2, 2)),
    "joins first": join_first,
    "leaves": lambda model: model.pop("other"),
    "loses its gradient": lambda model: model["other"].requires_grad_(False),
    "compiled": wrap_inside,
    "data parallel": wrap_all,
    "moves": lambda model: through_meta(model["kept"]),
    "double": lambda model: model["kept"].double(),
    "replaced": lambda model: setattr(model["kept"], "weight", nn.Parameter(torch.zeros(3, 2))),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("policy", MEMORIES, ids=lambda policy: f"{policy.name}-{policy.scope}")
def test_a_memory_survives_changes_of_the_model(change: str, policy: Policy) -> None:
    """A parameter's limits do not depend on changes of other parameters, since each is measured by itself."""

    def steps(change: Callable[[nn.ModuleDict], object] | None) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.ModuleDict({"other": nn.Linear(4, 3), "kept": nn.Linear(2, 3)})
        kept, clipper, clipped = model["kept"], Clipper(model, policy), []
        for step in range(12):
            if step == 6 and change is not None:
                change(model)
            fill(model)
            torch.manual_seed(step)
            for parameter in kept.parameters():
                drawn = torch.randn(parameter.shape) * (50.0 if step in (7, 10) else 1.0)
                parameter.grad = drawn.to(parameter.dtype)
            clipper.clip()
            clipper.check()
            clipped += [parameter.grad.to(torch.float32, copy=True) for parameter in kept.parameters()]
        return clipped

    undisturbed = steps(None)
    assert exact_norm(undisturbed) < 100  # the spikes were limited
    for one, other in zip(steps(CHANGES[change]), undisturbed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


# -- 12. after an error


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.name}-{policy.scope}")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_gradient_does_not_affect_the_next_step(policy: Policy, bad: float) -> None:
    def last(disturbed: bool) -> tuple[list[float], float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
        clipper = started(model, policy)
        if disturbed:
            kept = model[0].weight.grad
            model[0].weight.grad = torch.full_like(kept, bad)
            with pytest.raises(NonFiniteGradientError, match=r"0\.weight"):
                clipper.clip()
            with pytest.raises(ClipCheckError, match="before clip"):
                clipper.check()
        fill(model, 10.0)
        report = clipper.clip()
        clipper.check()
        return report.limits.tolist(), report.after.item()

    assert last(True) == last(False)


def test_after_an_error_that_an_accelerator_raised_late_the_next_step_works(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_an_accelerator(monkeypatch)
    clipper = started(model)
    fill(model)
    model[0].weight.grad[0, 0] = math.nan
    clipper.clip()
    with pytest.raises(NonFiniteGradientError, match=r"0\.weight at step 2"):
        clipper.raise_if_nonfinite()
    fill(model)
    clip_as_torch(clipper, model)
    clipper.raise_if_nonfinite()


def test_after_an_error_in_the_model_the_next_step_works(model: nn.Sequential) -> None:
    clipper = Clipper(model, ClipByNorm(max=MAX, exclude=["4.*"]))
    taken = model.pop(4)
    fill(model)
    with pytest.raises(UnmatchedPatternError, match=r"'4\.\*'"):
        clipper.clip()
    model.append(taken)
    fill(model)
    clipper.clip()
    clipper.check()
    assert exact_norm([p.grad for p in model[:4].parameters()]) == pytest.approx(MAX, rel=1e-6)


# -- 13. schedules


def schedule(name: str, step: int, first: float = 4.0, last: float = 1.0, over: int = 4) -> float:
    done = min(step / (over - 1), 1.0)
    return first + (last - first) * (done if name == "linear" else 0.5 - 0.5 * math.cos(math.pi * done))


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", [ClipByNorm, ClipByValue, EMAClip])
def test_a_schedule_reaches_its_end_at_the_last_of_its_steps(name: str, kind: Callable[..., Policy]) -> None:
    model = with_gradients([torch.full((1,), 100.0)])
    clipper = Clipper(model, kind(max=4.0, final=1.0, over=4, schedule=name))
    limits = []
    for _ in range(6):
        model["p0"].grad = torch.full((1,), 100.0)
        limits.append(clipper.clip().limits.item())
        clipper.check()
        assert model["p0"].grad.item() == pytest.approx(limits[-1], rel=1e-6)
    assert limits == pytest.approx([schedule(name, step) for step in range(6)])
    assert limits[3] == 1.0


def test_a_schedule_of_one_step_starts_at_its_end() -> None:
    model = with_gradients([torch.full((1,), 100.0)])
    policy = ClipByNorm(max=4.0, final=1.0, over=1, schedule="linear")
    assert Clipper(model, policy).clip().limits.item() == 1.0


@pytest.mark.parametrize("bad", [math.nan, 1e3])
def test_a_schedule_advances_at_dropped_steps(bad: float) -> None:
    model = with_gradients([torch.full((1,), 1.0)])
    options = {"max": 4.0, "final": 1.0, "over": 4, "schedule": "linear", "nonfinite": "drop"}
    clipper = Clipper(model, DropStep(**options) if bad == 1e3 else ClipByNorm(**options))
    limits = []
    for step in range(5):
        model["p0"].grad = torch.full((1,), bad if step in (0, 2) else 10.0 if bad != 1e3 else 0.5)
        report = clipper.clip()
        assert report.dropped == (step in (0, 2))
        limits.append(None if report.dropped else report.limits.item())
    assert limits == [None, pytest.approx(3.0), None, 1.0, 1.0]


def test_a_schedule_continues_from_the_saved_state(model: nn.Sequential) -> None:
    policy = ClipByNorm(max=4.0, final=1.0, over=4, schedule="linear")
    clipper = started(model, policy)
    fill(model, 100.0)
    clipper.clip()
    other = Clipper(model, replace(policy))
    other.load_state_dict(clipper.state_dict())
    fill(model, 100.0)
    assert other.clip().limits.item() == pytest.approx(2.0)


def test_a_schedule_continues_under_another_policy(model: nn.Sequential) -> None:
    options: dict[str, Any] = {"max": 4.0, "final": 1.0, "over": 4, "schedule": "linear"}
    clipper = started(model, ClipByNorm(**options))
    for policy in (EMAClip(**options), Chain(links={"a": ClipByNorm(**options)}), ClipByNorm(**options)):
        clipper.policy = policy
        fill(model, 100.0)
        clipper.clip()
    assert clipper.clip().limits.item() == 1.0
    clipper.policy = Chain(links={"new": ClipByNorm(**options)})
    fill(model, 100.0)
    assert clipper.clip().limits.item() == 1.0


# -- 14. copies, several models, several optimizers


def as_pickled(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


@pytest.mark.parametrize("copied", [copy.deepcopy, as_pickled])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.name}-{policy.scope}")
def test_a_copy_of_model_and_clipper_is_independent(
    model: nn.Sequential, policy: Policy, copied: Callable[[Any], Any]
) -> None:
    clipper = started(model, policy)
    other, second = copied((model, clipper))
    with pytest.raises(ClipCheckError, match="before clip"):
        second.check()
    fill(model, 10.0)
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        another.grad = one.grad.clone()
    given = [parameter.grad.clone() for parameter in other.parameters()]
    first = clipper.clip()
    assert all(map(torch.equal, given, [parameter.grad for parameter in other.parameters()]))
    assert second.clip().after.item() == first.after.item()
    second.check()
    second.policy.max = 1e-3
    assert clipper.policy.max == policy.max
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, another.grad)


@pytest.mark.parametrize("copied", [copy.deepcopy, as_pickled])
def test_a_copy_with_its_optimizer_checks_that_optimizer(model: nn.Sequential, copied: Callable[[Any], Any]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = started(model, ClipByNorm(max=MAX, scope="group"), optimizer=optimizer)
    other, steps, second = copied((model, optimizer, clipper))
    fill(other)
    clip_as_torch(second, other)
    stray = nn.Parameter(torch.zeros(3))
    stray.grad = torch.ones(3)
    steps.add_param_group({"params": [stray]})
    second.clip()
    with pytest.raises(ClipCheckError, match=r"parameter 0 of group 1 of SGD, of shape \[3\]"):
        second.check()


def test_one_clipper_for_both_networks_of_a_gan() -> None:
    torch.manual_seed(0)
    gan = nn.ModuleDict({"generator": nn.Linear(4, 3), "discriminator": nn.Linear(3, 1)})
    parts = [gan["generator"], gan["discriminator"]]
    optimizers = [torch.optim.Adam(part.parameters()) for part in parts]
    clipper = Clipper(gan, ClipByNorm(max=MAX, scope="group"), optimizer=optimizers)
    for turn in range(4):
        gan.zero_grad()
        learns, rests = parts[turn % 2], parts[1 - turn % 2]
        fill(learns)
        expected = in_float64(learns)
        total = clip_grad_norm_(expected.values(), MAX)
        report = clipper.clip()
        clipper.check()
        assert report.norms.tolist()[turn % 2] == pytest.approx(total.item(), rel=1e-6)
        assert report.norms.tolist()[1 - turn % 2] == 0.0
        assert_gradients(learns, expected)
        assert all(parameter.grad is None for parameter in rests.parameters())
    report = clipper.clip()
    assert report.names[0] == "generator.weight"


def test_one_clipper_for_each_network_of_a_gan() -> None:
    """With one policy and separate optimizers; the other network's gradients are neither clipped nor reported."""
    policy = ClipByNorm(max=MAX)
    parts = [nn.Linear(4, 3), nn.Linear(3, 1)]
    clippers = [Clipper(part, policy, optimizer=torch.optim.Adam(part.parameters())) for part in parts]
    for part in parts:
        fill(part)
    given = parts[1].weight.grad.clone()
    clip_as_torch(clippers[0], parts[0])
    assert torch.equal(parts[1].weight.grad, given)
    clip_as_torch(clippers[1], parts[1])


def test_a_gan_of_compiled_networks_keeps_its_names() -> None:
    parts = {"generator": nn.Linear(4, 3), "discriminator": nn.Linear(3, 1)}
    gan, wrapped = nn.ModuleDict(parts), nn.ModuleDict({n: Wrapped("_orig_mod", part) for n, part in parts.items()})
    state = started(wrapped, EMAClip(warmup=1)).state_dict()
    Clipper(gan, EMAClip(warmup=1)).load_state_dict(state)


def test_two_models_in_one_list() -> None:
    """Both models are clipped together, with prefixed names, and the list is not changed."""
    models = nn.ModuleDict({"one": nn.Linear(4, 3), "other": nn.Linear(4, 3)})
    named = [pair for name, model in models.items() for pair in model.named_parameters(prefix=name)]
    clipper = Clipper(named, ClipByNorm(max=MAX))
    fill(models)
    clip_as_torch(clipper, models)
    models["third"] = nn.Linear(2, 2)
    fill(models)
    given = models["third"].weight.grad.clone()
    clipper.clip()
    clipper.check()
    assert torch.equal(models["third"].weight.grad, given)


@pytest.mark.parametrize("scope", ["model", "group"])
def test_muon_with_adamw(model: nn.Sequential, scope: str) -> None:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    optimizers = [torch.optim.Muon(matrices, lr=1e-3), torch.optim.AdamW(vectors)]
    clipper = Clipper(model, ClipByNorm(max=MAX, scope=scope), optimizer=optimizers)
    for _ in range(2):
        fill(model)
        blocks = [matrices, vectors] if scope == "group" else [matrices + vectors]
        expected = [exact_norm([parameter.grad for parameter in block]) for block in blocks]
        report = clipper.clip()
        clipper.check()
        assert sorted(report.norms.tolist()) == pytest.approx(sorted(expected), rel=1e-6)
        for block in blocks:
            assert exact_norm([parameter.grad for parameter in block]) == pytest.approx(MAX, rel=1e-6)
        for optimizer in optimizers:
            optimizer.step()
    stray = nn.Parameter(torch.zeros(2, 7))
    stray.grad = torch.ones(2, 7)
    optimizers[0].add_param_group({"params": [stray]})
    clipper.clip()
    with pytest.raises(ClipCheckError, match=r"parameter 0 of group 1 of Muon, of shape \[2, 7\]"):
        clipper.check()
