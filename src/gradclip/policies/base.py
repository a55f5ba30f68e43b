"""What a policy is: the fields that all share, and the one question that each answers by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from gradclip.errors import InvalidField
from gradclip.fields import Option, field

if TYPE_CHECKING:
    from torch import Tensor

SCOPES = ("model", "group", "layer", "parameter", "unit")
BELOW_UNIT = SCOPES[:-1]
KINDS = ("limit", "measure", "rescale", "decision", "elementwise", "composite")
INFINITY = float("inf")
Memory = dict[str, "Tensor"]


@dataclass
class Measured:
    """What a policy sees of the gradients: one entry a block, in the order of the parameters.

    norms: [blocks], in the policy's own norm_type; 0 for a block without a gradient. All else is measured
    when a policy asks for it, which few do.
    """

    norms: Tensor
    measure_total: Callable[[], Tensor]
    measure_sizes: Callable[[], Tensor]
    measure_weights: Callable[[], Tensor]

    @cached_property
    def seen(self) -> Tensor:
        """[blocks], whether the norm is finite and above 0: only then may it enter a memory."""
        return self.norms.isfinite() & (self.norms > 0)

    @cached_property
    def total(self) -> Tensor:
        """0-d, the norm of all blocks together, in the same norm_type."""
        return self.measure_total()

    @cached_property
    def sizes(self) -> Tensor:
        """[blocks], the number of elements of each block's gradients."""
        return self.measure_sizes()

    @cached_property
    def weights(self) -> Tensor:
        """[blocks], the 2-norm of the parameters: another pass over as many elements."""
        return self.measure_weights()


@dataclass(kw_only=True)
class Policy(Option):
    """Base of all policies: which gradients, measured together in what way, and up to which limit.

    A policy of kind `limit` scales a block by min(1, limit / norm) and answers with `limits`; one of
    kind `measure` scales nothing, one of kind `rescale` scales by limit / norm, upward too, and one of
    kind `decision` leaves the step out where a norm exceeds its limit. It declares in `scopes` where it
    has a meaning.
    """

    max: float | None = field("an additional cap on the norm; null for none", default=None, gt=0, infinite=True)
    scope: str = field("what is measured together", default="model", choices=SCOPES)
    norm_type: float = field(
        "the p of the p-norm that is measured; inf for the largest element",
        default=2.0,
        ge=0.1,  # below, the norm of finite gradients could leave even float64
        infinite=True,
    )
    include: list[str] = field("glob patterns of parameter names to clip; none given means all", default_factory=list)
    exclude: list[str] = field("glob patterns of parameter names to leave alone", default_factory=list)
    nonfinite: str = field(
        "what a nan or infinite gradient does: end the run, leave the step out, become 0, or pass as in torch",
        default="error",
        choices=("error", "drop", "zero", "keep"),
    )
    schedule: str = field(
        "how max moves over the steps, from max to final", default="constant", choices=("constant", "linear", "cosine")
    )
    final: float | None = field("where max ends under a schedule", default=None, gt=0, infinite=True)
    over: int | None = field("how many steps max takes to get there", default=None, ge=1)

    kind: ClassVar[str] = "limit"
    scopes: ClassVar[tuple[str, ...]] = SCOPES
    max_is_cap: ClassVar[bool] = True  # beside the policy's own limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise InvalidField("kind", self.kind, " or ".join(KINDS))
        if self.scope not in self.scopes:
            raise InvalidField("scope", self.scope, f"{' or '.join(self.scopes)} for {self.name}")
        if self.schedule != "constant" and None in (self.max, self.final, self.over):
            raise InvalidField("schedule", self.schedule, "constant unless max, final and over are given")
        if self.schedule != "constant" and INFINITY in (self.max, self.final):
            raise InvalidField("schedule", self.schedule, "constant where max or final is infinite")

    def at(self, step: int) -> Self:
        """This policy with the `max` of a step, of which 0 is the first and `over` - 1 the first with `final`."""
        if self.schedule == "constant" or self.max is None or self.final is None or self.over is None:
            return self
        done = min(step / (self.over - 1), 1.0) if self.over > 1 else 1.0
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return replace(self, max=self.max + (self.final - self.max) * done)

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        """Each block's largest norm, [blocks], and the memory for the next step. A pure function."""
        raise NotImplementedError(f"{type(self).__name__} does not say its limits")


@dataclass(kw_only=True)
class ElementwisePolicy(Policy):
    """Base of the policies that limit every element by itself and therefore may turn a gradient's direction."""

    scope: str = field("what is measured together: every element stands alone", default="element", choices=("element",))

    norm_type: float = field(
        "what is reported as each parameter's norm: the largest element",
        default=math.inf,
        ge=math.inf,
        infinite=True,
    )

    kind: ClassVar[str] = "elementwise"
    remembers: ClassVar[bool] = False  # whether there is a memory for every element
    scopes: ClassVar[tuple[str, ...]] = ("element",)

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        """The largest magnitude that each element of a parameter's gradient may keep: one number, or a tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not say its bounds")

    def remember(self, clipped: Tensor, memory: Memory) -> Memory:
        """That parameter's memory for the next step, from its clipped gradient. Pure."""
        return memory
