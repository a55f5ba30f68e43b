"""Which behaviour of a public test suite a test here covers, and helpers for gradients and expected values.

A test carries one `@behaviour` for every behaviour that it covers: the suite, a number, the suite's own test and what
that test checks. `not_wanted.py` lists the behaviours without a case, with reasons; `README.md` has the counts, and
`test_inventory.py` compares them with what the modules of this folder contain.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import Parameter

from gradclip import Clipper, ClipReport, Policy

FOLDER = Path(__file__).parent
SECTIONS = {  # the number of behaviours by suite and section of the suite
    "torch": {"nn": 15, "cpp": 9, "fsdp1": 11, "fsdp2": 8, "dtensor": 11, "amp": 2},
    "optax": {"": 30},
    "keras": {"": 15},
    "timm": {"": 1, "code": 16},
    "composer": {"": 12},
}
T = TypeVar("T", bound=Callable[..., object])


@dataclass(frozen=True)
class Behaviour:
    """One behaviour that a public test suite checks.

    suite, number: a key of SECTIONS, and "<section>.<n>" or "<n>". test: the suite's own test. checks: what it asserts.
    differs: why gradclip gives another result on purpose; empty if it gives the same.
    covered_by: a test outside this folder, as "<path>::<name>"; empty for the test that carries the behaviour.
    """

    suite: str
    number: str
    test: str
    checks: str
    differs: str = ""
    covered_by: str = ""


def behaviour(suite: str, number: str, test: str, checks: str, *, differs: str = "") -> Callable[[T], T]:
    """Marks a test as the case of a behaviour."""

    def mark(function: T) -> T:
        function.__dict__.setdefault("behaviours", []).insert(0, Behaviour(suite, number, test, checks, differs))
        return function

    return mark


def all_numbers() -> list[tuple[str, str]]:
    """Every behaviour as (suite, number)."""
    return [
        (suite, f"{section}.{n}" if section else str(n))
        for suite, sections in SECTIONS.items()
        for section, count in sections.items()
        for n in range(1, count + 1)
    ]


def cases() -> Iterator[Behaviour]:
    """The behaviours that the tests of this folder carry, and those that tests elsewhere cover."""
    for path in sorted(FOLDER.glob("test_*.py")):
        module = importlib.import_module(f"tests.gradclip.ported.{path.stem}")
        yield from getattr(module, "COVERED_ELSEWHERE", ())
        for value in vars(module).values():
            if getattr(value, "__module__", None) == module.__name__:
                yield from getattr(value, "behaviours", ())


# -- gradients, and what is expected of them


def leaf(gradient: Any, weights: Any = None, dtype: torch.dtype = torch.float32) -> Parameter:
    """A parameter with a gradient. weights: of the gradient's shape; None for zeros."""
    made = torch.tensor(gradient, dtype=dtype)
    parameter = Parameter(torch.zeros_like(made) if weights is None else torch.tensor(weights, dtype=dtype))
    parameter.grad = made
    return parameter


def clip(policy: Policy, *parameters: Parameter) -> ClipReport:
    """Clips the gradients of parameters named p0, p1, … once, and checks them as before an optimizer's step."""
    clipper = Clipper([(f"p{number}", parameter) for number, parameter in enumerate(parameters)], policy)
    report = clipper.clip()
    clipper.check()
    return report


def values(*tensors: Parameter | Tensor | None) -> NDArray[np.float64]:
    """All elements in float64, in one dimension: of a parameter its gradient's, of another tensor its own."""
    taken = [tensor.grad if isinstance(tensor, Parameter) else tensor for tensor in tensors]
    return np.concatenate([t.detach().double().numpy().ravel() for t in taken if t is not None] or [np.zeros(0)])


def norm(elements: ArrayLike, p: float = 2.0) -> float:
    """The p-norm in float64, by its definition."""
    magnitudes = np.abs(np.asarray(elements, dtype=np.float64)).ravel()
    return float(magnitudes.max(initial=0.0) if np.isinf(p) else np.power(np.power(magnitudes, p).sum(), 1 / p))


def unit_norms(tensor: ArrayLike) -> NDArray[np.float64]:
    """The 2-norms over all dimensions but the first, which are kept with size 1; a vector is one unit."""
    array = np.asarray(tensor, dtype=np.float64)
    return np.asarray(
        np.sqrt(np.square(array).sum(axis=tuple(range(min(array.ndim - 1, 1), array.ndim)), keepdims=True))
    )
