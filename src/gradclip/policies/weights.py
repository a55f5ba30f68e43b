"""Limits that compare a gradient with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradclip.fields import field
from gradclip.policies.base import LimitPolicy, Measured, Memory

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class AGC(LimitPolicy):
    """Limits each unit's gradient to a share of its weights' norm: ratio * max(|w|, eps).

    Adaptive gradient clipping: Brock, De, Smith, Simonyan 2021, "High-Performance Large-Scale Image
    Recognition Without Normalization", equation 3. A matrix or kernel has a norm for each output, over
    all other dimensions; a vector has one. The paper leaves the classifier alone: `exclude` names it.
    """

    name: str = "agc"
    scope: str = field("what is measured together", default="unit", choices=("unit", "parameter"))
    norm_type: float = field("the 2-norm, as published", default=2.0, ge=2, le=2)
    ratio: float = field("the largest norm of a gradient, as a share of its weights'", default=0.01, gt=0)
    eps: float = field("the norm that weights are taken to have at least, so that zeros can learn", default=1e-3, ge=0)

    removed: ClassVar[dict[str, str]] = {
        "exclude_last": "clip.exclude says which parameters are left alone, as in clip.exclude=[output.weight]"
    }
    scopes: ClassVar[tuple[str, ...]] = ("unit", "parameter")

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return self.ratio * measured.weights.clamp(min=self.eps), memory
