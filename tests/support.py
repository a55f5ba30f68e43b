"""Helpers for several test files: policies, gradients, and train.py as a program."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradclip.policies import BlockPolicy, Policy

ROOT = Path(__file__).parents[1]
ENV = os.environ | {"PYTHONPATH": str(ROOT / "src")}  # for `python -c …`, where no train.py extends the path


def program(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs `python train.py …` to its end, in a new interpreter."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


@cache
def configured_policies() -> dict[str, Policy]:
    """The policies of conf/clip with their default values, by name."""
    from trainer.project import compose

    return {name: compose(f"clip={name}").clip for name in sorted(Policy.options)}


@cache
def policies() -> list[Policy]:
    """Every option of conf/clip at every scope that it takes."""
    found: list[Policy] = []
    for policy in configured_policies().values():
        at_scopes = [replace(policy, scope=scope) for scope in policy.scopes] if isinstance(policy, BlockPolicy) else []
        found += at_scopes or [policy]
    return found


def scope_of(policy: Policy) -> str:
    """The scope of a policy; `model` for a chain, whose links have scopes of their own."""
    return policy.scope if isinstance(policy, BlockPolicy) else "model"


def policy_id(policy: Policy) -> str:
    return f"{policy.name}-{scope_of(policy)}"


def with_gradients(gradients: Sequence[Tensor | None]) -> nn.ParameterDict:
    """Zero parameters p0, p1, …, one for each gradient, with its shape and dtype; None gives a shape of [3]."""
    parameters = nn.ParameterDict()
    for number, gradient in enumerate(gradients):
        like = torch.zeros(3) if gradient is None else gradient
        parameter = nn.Parameter(torch.zeros_like(like))
        parameter.grad = None if gradient is None else gradient.clone(memory_format=torch.preserve_format)
        parameters[f"p{number}"] = parameter
    return parameters


def exact(gradient: Tensor) -> NDArray[np.float64]:
    """A gradient as a flat NumPy array in float64."""
    values: NDArray[np.float64] = gradient.detach().to(torch.float64).numpy().ravel()
    return values


def exact_norm(gradients: Sequence[Tensor | None], p: float = 2.0) -> float:
    """The p-norm of all elements together, in float64; scaled by the largest element so that no power overflows."""
    values = np.concatenate([exact(gradient) for gradient in gradients if gradient is not None] or [np.zeros(0)])
    values = np.abs(values)
    largest = values.max(initial=0.0)
    if largest == 0.0 or np.isinf(p):
        return float(largest)
    return float(largest * np.power(np.power(values / largest, p).sum(), 1 / p))
