"""Element-wise limits that adapt to the elements of earlier steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from gradclip.fields import checked_dataclass, field
from gradclip.policies.base import ElementwisePolicy, Memory

if TYPE_CHECKING:
    from torch import Tensor


@checked_dataclass
class SpikeClip(ElementwisePolicy):
    """Limits an element to sign(g) * sqrt(theta * v) where g^2 exceeds theta * v.

    Huang et al. 2025, "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", section 3,
    without the momentum reset, which belongs to an optimizer. v is the running mean of the squares of the
    clipped elements of earlier steps, without bias correction and without the additional cap `max`; where it
    is 0 there is no limit but that cap. The memory holds sqrt(v), one number per element, so that the squares
    of tiny gradients do not underflow.
    """

    name: str = "spike"
    theta: float = field("the largest square of an element, as a multiple of its mean square", default=5000.0, gt=0)
    beta: float = field("weight of the past in the mean square", default=0.999, ge=0, lt=1)
    warmup: int = field("the number of first steps, whose elements are averaged and not limited", default=100, ge=0)

    remembers: ClassVar[bool] = True

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        if not memory:
            return math.inf
        unlimited = (memory["root"] == 0) | (memory["count"] < self.warmup)
        return (math.sqrt(self.theta) * memory["root"]).where(~unlimited, math.inf)

    def remember(self, clipped: Tensor, memory: Memory) -> Memory:
        values = clipped if clipped.dtype.itemsize >= 4 else clipped.float()
        root = memory.get("root", values.new_zeros(values.shape))
        count = memory.get("count", values.new_zeros(()))
        moved = (math.sqrt(self.beta) * root).hypot(math.sqrt(1 - self.beta) * values)
        return {"root": moved.where(values.isfinite(), root), "count": count + 1}
