"""Limits that compare a gradient with its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gradclip.fields import checked_dataclass, field
from gradclip.policies.base import LimitPolicy, Measured, Memory

if TYPE_CHECKING:
    from torch import Tensor


@checked_dataclass
class AGC(LimitPolicy):
    """Limits the norm of each unit's gradient to a multiple of its weights' norm: L = ratio · max(‖w‖, eps).

    Source: adaptive gradient clipping; Brock, De, Smith, Simonyan 2021, "High-Performance Large-Scale Image Recognition
    Without Normalization", arXiv:2102.06171, equation 3. A matrix or kernel has one unit per output, over all other
    dimensions; a vector is one unit. The paper does not clip the classifier: name it in `exclude`.

    >>> import torch
    >>> from gradclip import AGC, Clipper
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = Clipper([("weight", weight)], AGC(ratio=0.01))
    >>> clipper.clip()
    gradient norm 5 -> 0.01414 (1 of 1 blocks limited)
    >>> weight.grad
    tensor([0.0085, 0.0113])
    """

    name: str = "agc"
    scope: str = field("what is measured together", default="unit", choices=("unit", "parameter"))
    norm_type: float = field("the 2-norm, as published", default=2.0, ge=2, le=2)
    ratio: float = field("the largest norm of a gradient, as a multiple of its weights' norm", default=0.01, gt=0)
    eps: float = field("a lower bound on the weights' norm, so that weights of 0 can learn", default=1e-3, ge=0)

    removed: ClassVar[dict[str, str]] = {
        "exclude_last": "clip.exclude says which parameters are skipped, as in clip.exclude=[output.weight]"
    }
    scopes: ClassVar[tuple[str, ...]] = ("unit", "parameter")

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return self.ratio * measured.weights.clamp(min=self.eps), memory
