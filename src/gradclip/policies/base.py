"""Base classes of the policies: what is measured, how a limit is set, and how it changes over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from gradclip.errors import InvalidField
from gradclip.fields import Option, checked_dataclass, field

if TYPE_CHECKING:
    from torch import Tensor

SCOPES = ("model", "group", "layer", "parameter", "unit")
SCOPES_WITHOUT_UNIT = SCOPES[:-1]
KINDS = ("limit", "measure", "rescale", "decision", "elementwise", "composite")
INFINITY = float("inf")
Memory = dict[str, "Tensor"]


@dataclass
class Measured:
    """What a policy is given: measurements of the gradients, one entry per block, in the order of the parameters.

    norms: [blocks], in the policy's own norm_type; 0 for a block without a gradient. Everything else is measured
    when a policy reads it.
    """

    norms: Tensor
    measure_total: Callable[[], Tensor]
    measure_sizes: Callable[[], Tensor]
    measure_weights: Callable[[], Tensor]

    @cached_property
    def seen(self) -> Tensor:
        """Whether each norm is finite and above 0, [blocks]: only then may it enter a memory."""
        return self.norms.isfinite() & (self.norms > 0)

    @cached_property
    def total(self) -> Tensor:
        """The norm of all blocks together, in the same norm_type, 0-d."""
        return self.measure_total()

    @cached_property
    def sizes(self) -> Tensor:
        """The number of elements of each block's gradients, [blocks]."""
        return self.measure_sizes()

    @cached_property
    def weights(self) -> Tensor:
        """The 2-norm of each block's parameters, [blocks]. Reading it costs one pass over the parameters."""
        return self.measure_weights()


@checked_dataclass
class Policy(Option):
    """Base of all policies. `Policy.options` holds every one of them by its name.

    kind: what the policy does. `limit` scales a block by min(1, limit / norm), `rescale` by limit / norm, upward too;
    `elementwise` clamps every element; `decision` drops the step where a norm exceeds its limit; `measure` changes
    nothing; `composite` applies other policies.
    """

    nonfinite: str = field(
        "what a nan or infinite gradient does: end the run, drop the step, become 0, or pass as in torch",
        default="error",
        choices=("error", "drop", "zero", "keep"),
    )

    kind: ClassVar[str] = "limit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise InvalidField("kind", self.kind, " or ".join(KINDS))


def policy_instance(policy: Any) -> Policy:
    """Returns the policy; raises TypeError, in words for the usual mistakes, for anything that is none."""
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, type) and issubclass(policy, Policy):
        raise TypeError(f"the policy is the class {policy.__name__}; make an instance: {policy.__name__}(…)")
    if isinstance(policy, (list, tuple)):
        raise TypeError(f"the policy is a {type(policy).__name__}; Chain(links={{'first': …}}) applies several")
    if isinstance(policy, (int, float)):
        raise TypeError(f"the policy is the number {policy}; write ClipByNorm(max=1.0), with a threshold above 0")
    raise TypeError(f"the policy must be an instance of a policy, such as ClipByNorm(max=1.0), and is {policy!r}")


@checked_dataclass
class BlockPolicy(Policy):
    """Base of the policies that measure gradients: which ones, and which of them together, as a block.

    scopes: the values of `scope` that have a meaning for the policy.
    """

    scope: str = field("what is measured together", default="model", choices=SCOPES)
    norm_type: float = field(
        "the p of the p-norm that is measured; inf for the largest element",
        default=2.0,
        ge=0.1,  # below, the norm of finite gradients could exceed even float64
        infinite=True,
    )
    include: list[str] = field("glob patterns of parameter names to clip; none given means all", default_factory=list)
    exclude: list[str] = field("glob patterns of parameter names to skip", default_factory=list)

    scopes: ClassVar[tuple[str, ...]] = SCOPES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in self.scopes:
            raise InvalidField("scope", self.scope, f"{' or '.join(self.scopes)} for {self.name}")

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        """Computes each block's largest norm, [blocks], and the memory for the next step, without side effects.

        memory: what this method returned at the last step, empty at the first; tensors of one row per block.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement limits()")


@checked_dataclass
class LimitPolicy(BlockPolicy):
    """Base of the policies that limit gradients, with a threshold or cap `max` that may follow a schedule.

    max_is_cap: whether `max` is an additional cap on the policy's own limit, and not the limit itself.
    """

    max: float | None = field("an additional cap on the norm; null for none", default=None, gt=0, infinite=True)
    schedule: str = field(
        "how max moves over the steps, from max to final", default="constant", choices=("constant", "linear", "cosine")
    )
    final: float | None = field("the value of max at the end of its schedule", default=None, gt=0, infinite=True)
    over: int | None = field("the number of steps from max to final", default=None, ge=1)

    max_is_cap: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "constant":
            for name in ("final", "over"):
                if (value := getattr(self, name)) is not None:
                    raise InvalidField(name, value, "null unless clip.schedule is linear or cosine")
        elif None in (self.max, self.final, self.over):
            raise InvalidField("schedule", self.schedule, "constant unless max, final and over are given")
        elif INFINITY in (self.max, self.final):
            raise InvalidField("schedule", self.schedule, "constant where max or final is infinite")

    def at(self, step: int) -> Self:
        """The policy with the `max` of a step, counted from 0; from step `over` - 1 on, `max` is `final`."""
        if self.schedule == "constant" or self.max is None or self.final is None or self.over is None:
            return self
        done = min(step / (self.over - 1), 1.0) if self.over > 1 else 1.0
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return replace(self, max=self.max + (self.final - self.max) * done)


@checked_dataclass
class ElementwisePolicy(LimitPolicy):
    """Base of the policies that clamp every element by itself, which may change a gradient's direction.

    remembers: whether the memory holds a number for every element.
    """

    max: float | None = field(
        "an additional cap on every element's magnitude; null for none", default=None, gt=0, infinite=True
    )
    scope: str = field("what is limited: every element by itself", default="element", choices=("element",))
    norm_type: float = field(
        "what is reported as each parameter's norm: the largest element",
        default=math.inf,
        ge=math.inf,
        infinite=True,
    )

    kind: ClassVar[str] = "elementwise"
    remembers: ClassVar[bool] = False
    scopes: ClassVar[tuple[str, ...]] = ("element",)

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        """The largest magnitude of each element of a parameter's gradient: one number, or a tensor of its shape."""
        raise NotImplementedError(f"{type(self).__name__} does not implement bounds()")

    def remember(self, clipped: Tensor, memory: Memory) -> Memory:
        """Computes the parameter's memory for the next step, without side effects.

        clipped: the gradient within the policy's own bounds, before the cap `max`.
        """
        return memory
