"""Element-wise limits that follow the elements seen so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradclip.fields import field
from gradclip.policies.base import ElementwisePolicy, Memory

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class SpikeClip(ElementwisePolicy):
    """Brings an element back to sign(g) * sqrt(theta * v) where g^2 exceeds theta * v.

    Huang et al. 2025, "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", section 3,
    without the momentum reset, which belongs to an optimizer. v is the running mean of the squares of
    the clipped gradients before this step, without bias correction; an element that was always 0 passes.
    The memory holds sqrt(v), one number an element, so that the squares of tiny gradients do not vanish.
    """

    name: str = "spike"
    theta: float = field("how many times its mean square an element's square may be", default=5000.0, gt=0)
    beta: float = field("weight of the past in the mean square", default=0.999, ge=0, lt=1)
    warmup: int = field("steps that are only averaged", default=100, ge=0)

    remembers: ClassVar[bool] = True

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        if not memory:
            return math.inf
        passes = (memory["root"] == 0) | (memory["count"] < self.warmup)
        return (math.sqrt(self.theta) * memory["root"]).where(~passes, math.inf)

    def remember(self, clipped: Tensor, memory: Memory) -> Memory:
        values = clipped if clipped.dtype.itemsize >= 4 else clipped.float()
        root = memory.get("root", values.new_zeros(values.shape))
        count = memory.get("count", values.new_zeros(()))
        moved = (math.sqrt(self.beta) * root).hypot(math.sqrt(1 - self.beta) * values)
        return {"root": moved.where(values.isfinite(), root), "count": count + 1}
