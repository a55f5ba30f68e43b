"""No hidden copies between an accelerator and the host, proved without one.

Tensors on torch's meta device have no values: whatever would read one raises, just as it would stop the
queue of an accelerator. A dispatch mode sees every operation, and refuses copies in either direction
once the first step is over.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradclip import Clipper, Policy
from tests.gradclip.support import cases, pairs
from tests.support import policies, policy_id


def stays_on_the_device(policy: Policy) -> bool:
    """All but the policies that may leave a step out, which has to be known on the host."""
    return policy.kind != "decision"


class HostCopy(Exception):
    """A value of the device was asked for on the host."""


class NoHostCopies(TorchDispatchMode):
    """Raises where an operation would read values on the host or send them from there; counts the operations."""

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
    """Parameters without values; one has no gradient."""
    named = []
    for number, shape in enumerate([(6, 4), (6,), (3, 2, 2, 2), (2000,), (), (5, 3)]):
        parameter = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
        if number != 4:
            parameter.grad = torch.empty(shape, dtype=dtype, device="meta")
        named.append((f"layer{number // 2}.p{number}", parameter))
    return named


def steps(policy: Policy, dtype: torch.dtype) -> int:
    """The operations of two steps of clipping after the first."""
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
def test_nor_do_the_ways_with_non_finite_gradients(policy: Policy, mode: str) -> None:
    assert steps(replace(policy, nonfinite=mode), torch.float32) > 10


def test_the_watch_sees_a_copy() -> None:
    """What the design names as an exception is seen, and so would be anything else."""
    by_name = {policy_id(policy): policy for policy in policies()}
    for policy in (by_name["drop-model"], replace(by_name["norm-model"], nonfinite="drop")):
        with pytest.raises((RuntimeError, HostCopy)):
            steps(policy, torch.float32)
    with NoHostCopies(), pytest.raises(HostCopy):
        torch.empty(3).to("meta")
    with NoHostCopies(), pytest.raises(HostCopy):
        torch.empty(3, device="meta").sum().item()
