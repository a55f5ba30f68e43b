"""Policies with a fixed threshold and no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradclip.fields import key
from gradclip.policies.base import ElementwisePolicy, Measured, Memory, Policy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class NoClip(Policy):
    """Measures and reports, and limits nothing.

    `max` is accepted and reset to None, so that a sweep over policies and thresholds composes and
    the jobs without clipping are seen to be one and the same.
    """

    name: str = "none"
    max: float | None = key("has no effect here, and becomes null", default=None, above=0, infinite=True)

    kind: ClassVar[str] = "measure"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.max = None

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, float("inf")), memory


@dataclass(kw_only=True)
class ClipByNorm(Policy):
    """Scales a block down to the norm `max` when its norm exceeds it.

    Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks",
    Algorithm 1. The scale is min(1, max / norm), without the 1e-6 that torch adds to the norm.
    """

    name: str = "norm"
    max: float = key("the largest norm that passes unchanged", above=0, infinite=True)

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, self.max), memory


@dataclass(kw_only=True)
class ClipByValue(ElementwisePolicy):
    """Clamps every element to [-max, max], as torch's `clip_grad_value_` does."""

    name: str = "value"
    max: float = key("the largest magnitude that an element keeps", above=0, infinite=True)

    def bounds(self, gradient: Tensor, memory: Memory) -> tuple[float, Memory]:
        return self.max, memory
