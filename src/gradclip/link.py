"""One policy at work on its own gradients: measure, ask for the limit, scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.blocks import make_blocks
from gradclip.errors import ClipCheckError
from gradclip.gradients import Gradients, norms_of, places, select
from gradclip.policies import ElementwisePolicy, Measured, Memory, Policy

if TYPE_CHECKING:
    from torch.optim import Optimizer

TOLERANCE = 5e-6  # relative: twice the error of a norm, and the rounding of a product
FLUSHED = 1.2e-38  # what a float32 unit that flushes to zero may lose of an element


@dataclass(frozen=True)
class Outcome:
    """What a link found and did.

    norms, limits: [blocks]. exceeded, total: how many blocks (elements, for elementwise policies) were over
    their limit, of how many. after: [parameters], the 2-norms; None where only measuring can tell.
    """

    norms: Tensor
    limits: Tensor
    exceeded: Tensor
    total: int
    after: Tensor | None
    dropped: bool = False


class Link:
    """A policy, the blocks of its scope, and its memory."""

    def __init__(
        self,
        policy: Policy,
        names: Sequence[str],
        parameters: Sequence[Parameter],
        optimizer: Optimizer | None,
    ):
        self.policy = policy
        self._parameters = parameters
        self._selected = select(names, policy.include, policy.exclude)
        self._names = [names[place] for place in self._selected]
        self._elementwise = isinstance(policy, ElementwisePolicy)
        scope = "parameter" if self._elementwise else policy.scope
        self._blocks = make_blocks(scope, names, parameters, self._selected, optimizer)
        self._memory: Memory = {}
        self._last: tuple[Tensor, Tensor] | None = None  # norms and limits, for check()

    def apply(self, gradients: Gradients, before: Tensor, may_look: bool) -> Outcome:
        """Limits the gradients in place. before: [parameters], the 2-norms as they are now."""
        own = self._blocks.own(gradients)
        if isinstance(self.policy, ElementwisePolicy):
            outcome = self._clamp(self.policy, own, before, may_look)
        else:
            outcome = self._scale(own, before, may_look)
        self._last = outcome.norms, outcome.limits
        return outcome

    def check(self, gradients: Gradients) -> None:
        """Raises ClipCheckError if a block is not within the limit of the last `apply`. Reads from the device."""
        assert self._last is not None
        norms, limits = self._last
        own, p = self._blocks.own(gradients), self.policy.norm_type
        now = self._blocks.norms(own, p, norms.device)
        eps = max((torch.finfo(gradient.dtype).eps for gradient in own.values()), default=0.0)
        smallest = max((torch.finfo(g.dtype).tiny * torch.finfo(g.dtype).eps for g in own.values()), default=0.0)
        count = sum(gradient.numel() for gradient in own.values()) or 1
        floor = max(smallest, FLUSHED) * count ** (1 / p)
        within = now <= limits * (1 + TOLERANCE + eps) + floor
        within |= ~now.isfinite() & ~norms.isfinite()  # passed on knowingly, by nonfinite=keep
        if not bool(within.all()):
            block = int(torch.argmin(within.int()))
            raise ClipCheckError(
                f"clip={self.policy.name} left {self._blocks.labels[block]} a norm of {now[block].item():.6g} "
                f"where its limit is {limits[block].item():.6g}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"policy": self.policy.name, "blocks": list(self._blocks.labels), "memory": dict(self._memory)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device, wide: torch.dtype) -> None:
        """Raises ValueError if another policy wrote the state, or the same for other blocks."""
        if state["policy"] != self.policy.name:
            raise ValueError(f"the saved memory belongs to {state['policy']!r}, not to {self.policy.name!r}")
        if state["blocks"] != self._blocks.labels:
            raise ValueError("the saved memory belongs to other blocks: another model, scope, include or exclude")
        self._memory = {
            name: tensor.to(device, wide if tensor.dtype == torch.float64 else tensor.dtype)
            for name, tensor in state["memory"].items()
        }

    def _scale(self, own: Gradients, before: Tensor, may_look: bool) -> Outcome:
        policy, p, device = self.policy, self.policy.norm_type, before.device
        norms = self._blocks.norms(own, p, device, known=before if p == 2.0 else None)
        measured = Measured(
            norms=norms,
            sizes=self._blocks.sizes(own, device),
            seen=norms.isfinite() & (norms > 0),
        )
        limits, self._memory = policy.limits(measured, self._memory)
        exceeds = ~(norms <= limits) & (limits != math.inf)  # a nan norm exceeds, and makes its block nan, as in torch
        outcome = Outcome(norms, limits, exceeds.sum(), len(self._blocks), before)
        if policy.kind == "measure" or (may_look and not bool(exceeds.any())):
            return outcome
        scales = torch.where(exceeds, limits / norms, 1.0)
        self._blocks.multiply(own, scales, exceeds if may_look else None)
        exact = all(gradient.dtype.itemsize >= 4 for gradient in own.values())  # half precision rounds: measured
        after = self._blocks.after(before, scales, device) if exact else None
        return Outcome(norms, limits, outcome.exceeded, outcome.total, after)

    def _clamp(self, policy: ElementwisePolicy, own: Gradients, before: Tensor, may_look: bool) -> Outcome:
        norms = norms_of(own, len(self._parameters), math.inf, before.device)
        limits = torch.full_like(norms, math.inf)
        exceeded = torch.zeros((), dtype=torch.long, device=before.device)
        changed = False
        for place, gradient in own.items():
            if gradient.numel() == 0:
                continue
            bound, _ = policy.bounds(gradient, self._memory)
            limits[place] = bound
            if bound >= torch.finfo(gradient.dtype).max or (may_look and bool(norms[place] <= bound)):
                continue
            changed = True
            exceeded += (gradient.abs() > bound).sum().to(before.device)
            gradient.clamp_(-bound, bound)
        chosen = places(tuple(self._selected), before.device)
        total = sum(gradient.numel() for gradient in own.values())
        return Outcome(norms[chosen], limits[chosen], exceeded, total, None if changed else before)
