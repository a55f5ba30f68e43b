"""What a policy is: the fields that all share, and the one question that each answers by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradclip.errors import InvalidField
from gradclip.fields import Option, key

if TYPE_CHECKING:
    from torch import Tensor

SCOPES = ("model", "group", "layer", "parameter", "unit")
Memory = dict[str, "Tensor"]


@dataclass(frozen=True)
class Measured:
    """What a policy sees of the gradients: one entry a block, in the order of the parameters.

    norms: [blocks], in the policy's own norm_type; 0 for a block without a gradient.
    sizes: [blocks], the number of elements of each block's gradients.
    seen: [blocks], whether the norm is finite and above 0: only then may it enter a memory.
    """

    norms: Tensor
    sizes: Tensor
    seen: Tensor


@dataclass(kw_only=True)
class Policy(Option):
    """Base of all policies: which gradients, measured together in what way, and up to which limit.

    A policy of kind `limit` scales a block by min(1, limit / norm) and answers with `limits`; one of
    kind `measure` scales nothing. It declares in `scopes` where it has a meaning.
    """

    max: float | None = key("an additional cap on the norm; null for none", default=None, above=0, infinite=True)
    scope: str = key("what is measured together", default="model", choices=SCOPES)
    norm_type: float = key(
        "the p of the p-norm that is measured; inf for the largest element",
        default=2.0,
        least=0.1,  # below, the norm of finite gradients could leave even float64
        infinite=True,
    )
    include: list[str] = key("glob patterns of parameter names to clip; none given means all", default_factory=list)
    exclude: list[str] = key("glob patterns of parameter names to leave alone", default_factory=list)
    nonfinite: str = key(
        "what a nan or infinite gradient does: end the run, leave the step out, become 0, or pass as in torch",
        default="error",
        choices=("error", "drop", "zero", "keep"),
    )

    kind: ClassVar[str] = "limit"
    scopes: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in self.scopes:
            raise InvalidField("scope", self.scope, f"{' or '.join(self.scopes)} for {self.name}")

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        """Each block's largest norm, [blocks], and the memory for the next step. A pure function."""
        raise NotImplementedError(f"{type(self).__name__} does not say its limits")


@dataclass(kw_only=True)
class ElementwisePolicy(Policy):
    """Base of the policies that limit every element by itself and therefore may turn a gradient's direction."""

    scope: str = key("what is measured together: every element stands alone", default="element", choices=("element",))

    norm_type: float = key(
        "what is reported as each parameter's norm: the largest element",
        default=math.inf,
        least=math.inf,
        infinite=True,
    )

    kind: ClassVar[str] = "elementwise"
    scopes: ClassVar[tuple[str, ...]] = ("element",)

    def bounds(self, gradient: Tensor, memory: Memory) -> tuple[float, Memory]:
        """The largest magnitude that an element of one gradient may keep, and the next memory. Pure."""
        raise NotImplementedError(f"{type(self).__name__} does not say its bounds")
