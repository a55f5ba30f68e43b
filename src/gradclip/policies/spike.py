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
    """Limits an element to sign(g) · √(theta · v) where g² > theta · v, with v ← beta · v + (1 - beta) · g².

    Source: Huang et al. 2025, "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", arXiv:2501.06842,
    section 3, without the momentum reset, which belongs to an optimizer. v is the running mean of the squares of the
    clipped elements of earlier steps, without bias correction and without the additional cap `max`; where it is 0 there
    is no limit but that cap. The memory holds √v, one number per element, so that the squares of tiny gradients do not
    underflow.

    >>> import torch
    >>> from gradclip import SpikeClip, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> clipper = Clipper([("weight", weight)], SpikeClip(theta=4.0, beta=0.5, warmup=2))
    >>> for norm in (1.0, 1.0, 9.0):
    ...     weight.grad = torch.tensor([norm])
    ...     print(clipper.clip())
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 1 -> 1 (0 of 1 blocks limited)
    gradient norm 9 -> 1.732 (1 of 1 blocks limited)
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
        root = memory["root"] if memory else values.new_zeros(values.shape)
        count = memory["count"] if memory else values.new_zeros(())
        moved = (math.sqrt(self.beta) * root).hypot(math.sqrt(1 - self.beta) * values)
        return {"root": moved.where(values.isfinite(), root), "count": count + 1}
