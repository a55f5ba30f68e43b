"""Policies with a fixed threshold and no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gradclip.fields import checked_dataclass, field
from gradclip.policies.base import INFINITY, SCOPES, BlockPolicy, ElementwisePolicy, LimitPolicy, Measured, Memory

if TYPE_CHECKING:
    from torch import Tensor


@checked_dataclass
class NoClip(BlockPolicy):
    """Measures and reports, and limits nothing: g ← g.

    >>> import torch
    >>> from gradclip import NoClip, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = Clipper([("weight", weight)], NoClip())
    >>> clipper.clip()
    gradient norm 5 -> 5 (0 of 1 blocks limited)
    """

    name: str = "none"

    kind: ClassVar[str] = "measure"
    removed: ClassVar[dict[str, str]] = dict.fromkeys(
        ("max", "schedule", "final", "over"), "clip=none has no limit; clip=norm clip.max=inf does the same"
    )

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, INFINITY), memory


@checked_dataclass
class ClipByNorm(LimitPolicy):
    """Scales a block down to the norm `max` when its norm exceeds it: g ← g · min(1, max / ‖g‖).

    Source: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", arXiv:1211.5063,
    Algorithm 1. torch divides by ‖g‖ + 1e-6 instead.

    >>> import torch
    >>> from gradclip import ClipByNorm, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = Clipper([("weight", weight)], ClipByNorm(max=1.0))
    >>> clipper.clip()
    gradient norm 5 -> 1 (1 of 1 blocks limited)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """

    name: str = "norm"
    max: float = field("the largest norm that is not limited", gt=0, infinite=True)

    max_is_cap: ClassVar[bool] = False

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, self.max), memory


@checked_dataclass
class ClipByValue(ElementwisePolicy):
    """Clamps every element to [-max, max]: g_i ← min(max(g_i, -max), max).

    Source: torch's `clip_grad_value_`. It changes the direction of the gradient.

    >>> import torch
    >>> from gradclip import ClipByValue, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = Clipper([("weight", weight)], ClipByValue(max=3.5))
    >>> clipper.clip()
    gradient norm 5 -> 4.61 (1 of 1 blocks limited)
    >>> weight.grad
    tensor([3.0000, 3.5000])
    """

    name: str = "value"
    max: float = field("the largest magnitude that an element keeps", gt=0, infinite=True)

    max_is_cap: ClassVar[bool] = False

    def bounds(self, gradient: Tensor, memory: Memory) -> Tensor | float:
        return self.max


@checked_dataclass
class ClipByRMS(LimitPolicy):
    """Limits the root mean square of a block's n elements: g ← g · min(1, max · √n / ‖g‖).

    Source: optax, `clip_by_block_rms`.

    >>> import torch
    >>> from gradclip import ClipByRMS, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = Clipper([("weight", weight)], ClipByRMS(max=1.0))
    >>> clipper.clip()
    gradient norm 5 -> 1.414 (1 of 1 blocks limited)
    >>> weight.grad
    tensor([0.8485, 1.1314])
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
    """Scales every block to the norm `max`, downward or upward: g ← g · max / (‖g‖ + eps).

    Source: normalised gradient descent; Hazan, Levy, Shalev-Shwartz 2015, "Beyond Convexity: Stochastic Quasi-Convex
    Optimization", arXiv:1507.02030, Algorithm 1.

    >>> import torch
    >>> from gradclip import Normalize, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([0.3, 0.4])
    >>> clipper = Clipper([("weight", weight)], Normalize(max=1.0))
    >>> clipper.clip()
    gradient norm 0.5 -> 1 (0 of 1 blocks limited)
    >>> weight.grad
    tensor([0.6000, 0.8000])
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
    """Reduces every norm smoothly to below `max`: g ← g · max / (max + ‖g‖).

    Source: Zhang, He, Sra, Jadbabaie 2020, "Why Gradient Clipping Accelerates Training", arXiv:1905.11881, equation 8
    and the discussion of normalised against clipped descent: within a factor of 2 of min(1, max / ‖g‖).

    >>> import torch
    >>> from gradclip import SoftClip, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = Clipper([("weight", weight)], SoftClip(max=5.0))
    >>> clipper.clip()
    gradient norm 5 -> 2.5 (1 of 1 blocks limited)
    >>> weight.grad
    tensor([1.5000, 2.0000])
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

    Source: optax, `skip_large_updates`; Megatron-LM does the same. The decision is made on the host, so on an
    accelerator every step waits for the norm.

    >>> import torch
    >>> from gradclip import DropStep, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = Clipper([("weight", weight)], DropStep(max=1.0))
    >>> clipper.clip()
    gradient norm 5, step dropped
    >>> weight.grad
    tensor([3., 4.])
    """

    name: str = "drop"
    max: float = field("the largest norm with which a step is taken", gt=0, infinite=True)

    kind: ClassVar[str] = "decision"
    scopes: ClassVar[tuple[str, ...]] = ("model",)
    max_is_cap: ClassVar[bool] = False

    def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
        return measured.norms.new_full(measured.norms.shape, self.max), memory
