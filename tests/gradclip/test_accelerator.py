"""No copies between an accelerator and the host, and no large allocations, tested without an accelerator.

Tensors on torch's meta device have no values, so an operation that reads one raises, where it would wait for an
accelerator. A dispatch mode intercepts every operation, and refuses copies in either direction after the first step.
If values are needed, the CPU is treated as an accelerator (`as_on_an_accelerator`).
"""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradclip import (
    Chain,
    ClipByNorm,
    ClipByValue,
    Clipper,
    EMAClip,
    NoClip,
    NonFiniteGradientError,
    Policy,
    ZClip,
    clamping,
    norms,
)
from tests.gradclip.support import as_on_an_accelerator, cases, pairs, tensors_in
from tests.support import policies, policy_id, with_gradients


def stays_on_the_device(policy: Policy) -> bool:
    """Whether a policy reads nothing on the host, as all do but those that may drop a step."""
    return policy.kind != "decision"


class HostCopy(Exception):
    """An operation copies a value from the device to the host."""


class NoHostCopies(TorchDispatchMode):
    """Raises HostCopy for an operation that copies values from or to the host; counts the other operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"):
            raise HostCopy(name)
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            target = args[0].device if name == "copy_" else kwargs.get("device") or source.device
            if {source.device.type, torch.device(target).type} == {"meta", "cpu"}:
                raise HostCopy(f"{name} from {source.device} to {target}")
        return func(*args, **kwargs)


def on_the_device(dtype: torch.dtype) -> list[tuple[str, nn.Parameter]]:
    """Parameters on the meta device, which have no values; one has no gradient."""
    named = []
    for number, shape in enumerate([(6, 4), (6,), (3, 2, 2, 2), (2000,), (), (5, 3)]):
        parameter = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
        if number != 4:
            parameter.grad = torch.empty(shape, dtype=dtype, device="meta")
        named.append((f"layer{number // 2}.p{number}", parameter))
    return named


def steps(policy: Policy, dtype: torch.dtype) -> int:
    """Counts the operations of the second and third step of clipping."""
    named = on_the_device(dtype)
    optimizer = torch.optim.SGD([{"params": [p for _, p in named[::2]]}, {"params": [p for _, p in named[1::2]]}])
    clipper = Clipper(named, policy, optimizer=optimizer)
    clipper.clip()  # index tensors are made once
    watch = NoHostCopies()
    with watch:
        for _ in range(2):
            clipper.clip()
    return watch.operations


@pytest.mark.parametrize(("policy", "dtype"), cases(stays_on_the_device))
def test_clip_reads_nothing_from_the_device(policy: Policy, dtype: torch.dtype) -> None:
    assert steps(policy, dtype) > 10


@pytest.mark.parametrize("mode", ["zero", "keep"])
@pytest.mark.parametrize(
    "policy", {policy.kind: policy for policy in pairs() if stays_on_the_device(policy)}.values(), ids=policy_id
)
def test_the_modes_of_nonfinite_read_nothing_from_the_device(policy: Policy, mode: str) -> None:
    assert steps(replace(policy, nonfinite=mode), torch.float32) > 10


def test_a_host_copy_is_detected() -> None:
    """The documented exceptions are detected, so others would be, too."""
    by_name = {policy_id(policy): policy for policy in policies()}
    for policy in (by_name["drop-model"], replace(by_name["norm-model"], nonfinite="drop")):
        with pytest.raises((RuntimeError, HostCopy)):
            steps(policy, torch.float32)
    with NoHostCopies(), pytest.raises(HostCopy):
        torch.empty(3).to("meta")
    with NoHostCopies(), pytest.raises(HostCopy):
        torch.empty(3, device="meta").sum().item()


# -- nonfinite=error on an accelerator, where no value is read


def values(
    policy: Policy, bad_at: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Clipper, nn.Linear, torch.optim.Optimizer]:
    """A Clipper on the stand-in after four steps of SGD, of which one, from 1, has an infinite element."""
    as_on_an_accelerator(monkeypatch)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = Clipper(model, policy, optimizer=optimizer)
    watch = NoHostCopies()
    for step in range(1, 5):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if step == bad_at:
            model.bias.grad[0] = math.inf
        with watch if step > 1 else nullcontext():  # what depends on no gradient is made once
            clipper.clip()
        optimizer.step()
    return clipper, model, optimizer


@pytest.mark.parametrize(
    "policy",
    [ClipByNorm(max=0.5), ClipByNorm(max=0.5, scope="unit"), ClipByValue(max=0.1), NoClip(), ZClip(),
     Chain(links={"value": ClipByValue(max=0.5), "norm": ClipByNorm(max=0.5)})],
    ids=policy_id,
)  # fmt: skip
def test_no_weight_is_updated_from_a_nonfinite_gradient(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    clipper, model, _ = values(policy, bad_at=2, monkeypatch=monkeypatch)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    with pytest.raises(NonFiniteGradientError, match=r"^non-finite gradient in bias at step 2$") as error:
        clipper.raise_if_nonfinite()
    assert (error.value.names, error.value.step) == (["bias"], 2)
    clipper.raise_if_nonfinite()  # said once


def test_the_gradients_of_a_nonfinite_step_become_zero_in_the_report_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clipper, model, _ = values(ClipByNorm(max=0.5), bad_at=0, monkeypatch=monkeypatch)
    for bad in (math.nan, -math.inf):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, bad)
        report = clipper.clip()
        assert not report.before.isfinite()
        assert report.after.item() == 0
        assert all((parameter.grad == 0).all() for parameter in model.parameters())
    with pytest.raises(NonFiniteGradientError, match=r"weight, bias at step 5"):
        clipper.check()
    clipper.check()  # the gradients are those of the report


def test_momentum_moves_the_weights_at_a_nonfinite_step_as_with_a_zero_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_on_an_accelerator(monkeypatch)
    torch.manual_seed(0)
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, second in zip(models, (math.nan, 0.0), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        clipper = Clipper(model, ClipByNorm(max=1.0))
        for value in (1.0, second):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, value)
            clipper.clip()
            optimizer.step()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scope", ["model", "parameter"])
def test_a_nonfinite_step_enters_no_memory(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_an_accelerator(monkeypatch)
    states = []
    for bad in (False, True):
        model = with_gradients([torch.ones(2), torch.ones(3)])
        clipper = Clipper(model.named_parameters(), EMAClip(warmup=1, scope=scope))
        for step in range(4):
            if step == 2 and not bad:
                continue
            for name, parameter in model.items():
                parameter.grad = torch.full_like(parameter, math.nan if step == 2 and name == "p0" else 1.0 + step)
            clipper.clip()
        states.append(clipper.state_dict()[""]["memory"])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


# -- allocations


class LargestAllocation(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors_in([args, kwargs or {}])}
        for tensor in tensors_in(found):
            if tensor.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, tensor.numel())
        return found


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("policy", pairs(), ids=policy_id)
def test_no_allocation_is_as_large_as_the_gradients(
    policy: Policy, dtype: torch.dtype, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, shape = 1 << 12, (128, 256)
    for module in (norms, clamping):
        monkeypatch.setattr(module, "PART", part)
        monkeypatch.setattr(module, "LARGE_PART", part)
    if not on_host:
        as_on_an_accelerator(monkeypatch)
    parameters = [nn.Parameter(torch.ones(shape, dtype=dtype)) for _ in range(4)]
    optimizer = torch.optim.SGD([{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.1)
    clipper = Clipper([(str(i), p) for i, p in enumerate(parameters)], policy, optimizer=optimizer)
    watch = LargestAllocation()
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(shape).to(dtype)
        with watch:
            clipper.clip()
    # What is remembered of every element is as large as one gradient, and so is its limit.
    most = parameters[0].numel() if getattr(policy, "remembers", False) else part
    assert 0 < watch.elements <= most
