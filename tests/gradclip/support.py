"""Combinations of policies, scopes and precisions for the tests of the clipping library."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import Tensor

from gradclip import Policy, clamping, gradients, norms, scopes
from tests.support import policies, policy_id, scope_of


@cache
def pairs() -> list[Policy]:
    """Every policy of conf/clip, and every kind of policy at every scope that it takes.

    Scope and policy are independent, so not every policy is tested at every scope. Each is tested at a scope with
    several blocks, if it allows one.
    """
    found: list[Policy] = []
    at_scope: Counter[tuple[str, str]] = Counter()
    by_name = [list(group) for _, group in groupby(policies(), lambda policy: policy.name)]
    for group in sorted(by_name, key=len):
        found.append(
            min(group, key=lambda policy: (scope_of(policy) == "model", at_scope[policy.kind, scope_of(policy)]))
        )
        at_scope[found[-1].kind, scope_of(found[-1])] += 1
    for policy in sorted(policies(), key=lambda policy: -len(getattr(policy, "scopes", ()))):
        if not at_scope[policy.kind, scope_of(policy)]:
            found.append(policy)
            at_scope[policy.kind, scope_of(policy)] += 1
    return sorted(found, key=policy_id)


def cases(chosen: Callable[[Policy], bool] = lambda policy: True) -> Sequence[object]:
    """Parameter sets of (policy, dtype): the chosen pairs in float32 and bfloat16, norm and value in all precisions."""
    found = []
    for policy in filter(chosen, pairs()):
        dtypes = [torch.float32, torch.bfloat16]
        dtypes += [torch.float64, torch.float16] if policy.name in ("norm", "value") else []
        found += [pytest.param(policy, dtype, id=f"{policy_id(policy)}-{dtype}") for dtype in dtypes]
    return found


def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats the CPU as an accelerator, on which no decision may depend on a value."""
    for module in (norms, clamping, gradients, scopes):
        monkeypatch.setattr(module, "is_host", lambda device: False)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for each in value for tensor in tensors_in(each)] if isinstance(value, list | tuple) else []
