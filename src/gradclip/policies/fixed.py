"""Policies with a fixed threshold and no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gradclip.fields import checked_dataclass, field
from gradclip.policies.base import INFINITY, SCOPES, BlockPolicy, ElementwisePolicy, LimitPolicy, Measured, Memory

if TYPE_CHECKING:
    from torch import Tensor


@checked_dataclass
class NoClip(BlockPolicy):
    """Measures and reports, and limits nothing."""

    name: str = "none"

    kind: ClassVar[str] = "measure"
    removed: ClassVar[dict[str, str]] = dict.fromkeys(
        ("max", "schedule", "final", "over"), "clip=none has no limit; clip=norm clip.max=inf does the same"
    )

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, INFINITY), memory


@checked_dataclass
class ClipByNorm(LimitPolicy):
    """Scales a block down to the norm `max` when its norm exceeds it.

    Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks",
    Algorithm 1. The scale is min(1, max / norm), without the 1e-6 that torch adds to the norm.
    """

    name: str = "norm"
    max: float = field("the largest norm that is not limited", gt=0, infinite=True)

    max_is_cap: ClassVar[bool] = False

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, self.max), memory


@checked_dataclass
class ClipByValue(ElementwisePolicy):
    """Clamps every element to [-max, max], as torch's `clip_grad_value_` does."""

    name: str = "value"
    max: float = field("the largest magnitude that an element keeps", gt=0, infinite=True)

    max_is_cap: ClassVar[bool] = False

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        return self.max


@checked_dataclass
class ClipByRMS(LimitPolicy):
    """Limits the root mean square of a block's elements: its 2-norm to max * sqrt(elements).

    optax `clip_by_block_rms`.
    """

    name: str = "rms"
    max: float = field("the largest root mean square that is not limited", gt=0, infinite=True)
    scope: str = field("what is measured together", default="parameter", choices=SCOPES)
    norm_type: float = field("the 2-norm, from which alone a root mean square follows", default=2.0, ge=2, le=2)

    max_is_cap: ClassVar[bool] = False

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return self.max * measured.sizes.sqrt(), memory


@checked_dataclass
class Normalize(LimitPolicy):
    """Scales every block to the norm `max`, downward or upward: g * max / (norm + eps).

    Normalised gradient descent (Nesterov 1984; Hazan, Levy, Shalev-Shwartz 2015).
    """

    name: str = "normalize"
    max: float = field("the norm that every block is scaled to", default=1.0, gt=0)
    eps: float = field("added to the norm, so that a vanishing gradient is not enlarged to max", default=1e-6, ge=0)

    kind: ClassVar[str] = "rescale"
    max_is_cap: ClassVar[bool] = False

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return self.max * (measured.norms / (measured.norms + self.eps)), memory


@checked_dataclass
class SoftClip(LimitPolicy):
    """Reduces every norm smoothly to below `max`: g * max / (max + norm).

    Zhang, He, Sra, Jadbabaie 2020, "Why Gradient Clipping Accelerates Training", equation 8 and the
    discussion of normalised against clipped descent: within a factor of 2 of min(1, max / norm).
    """

    name: str = "soft"
    max: float = field("the norm that large gradients approach and never reach", default=1.0, gt=0)

    kind: ClassVar[str] = "rescale"
    max_is_cap: ClassVar[bool] = False

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return self.max * (measured.norms / (self.max + measured.norms)), memory


@checked_dataclass
class DropStep(LimitPolicy):
    """Drops a step when the norm of its gradients exceeds `max`, and changes no gradient.

    As optax `skip_large_updates` and Megatron do. The decision is made on the host, so on an accelerator every step
    waits for the norm.
    """

    name: str = "drop"
    max: float = field("the largest norm with which a step is taken", gt=0, infinite=True)

    kind: ClassVar[str] = "decision"
    scopes: ClassVar[tuple[str, ...]] = ("model",)
    max_is_cap: ClassVar[bool] = False

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, self.max), memory
