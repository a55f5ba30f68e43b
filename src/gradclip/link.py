"""One policy at work on its own gradients: measure, ask for the limit, scale."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradclip.blocks import make_blocks
from gradclip.clamping import Clamped, clamp_on_host, clamp_to
from gradclip.errors import ClipCheckError
from gradclip.gradients import Gradients, Norms, Parameters, places, select
from gradclip.norms import combine
from gradclip.policies import ElementwisePolicy, Measured, Memory, Policy

if TYPE_CHECKING:
    from torch.optim import Optimizer

log = logging.getLogger(__name__)

TOLERANCE = 5e-6  # relative: twice the error of a norm, and the rounding of a product
FLUSHED = 1.2e-38  # what a float32 unit that flushes to zero may lose of an element


@dataclass
class Outcome:
    """What a link found and did.

    norms, limits: [blocks]. exceeded, total: how many blocks (elements, for elementwise policies) were over
    their limit, of how many. after: the parameters' 2-norms; None where only measuring can tell.
    """

    norms: Tensor
    limits: Tensor
    exceeded: Tensor | int
    total: int
    after: Norms | None
    dropped: bool = False


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcomes of all links as one."""
    if len(outcomes) == 1:
        return outcomes[0]
    return Outcome(
        norms=torch.cat([outcome.norms for outcome in outcomes]),
        limits=torch.cat([outcome.limits for outcome in outcomes]),
        exceeded=sum(outcome.exceeded for outcome in outcomes),
        total=sum(outcome.total for outcome in outcomes),
        after=outcomes[-1].after,
        dropped=any(outcome.dropped for outcome in outcomes),
    )


class Link:
    """A policy, the blocks of its scope, and its memory."""

    def __init__(self, policy: Policy, parameters: Parameters, optimizer: Optimizer | None):
        self.policy, self._parameters = policy, parameters
        names = parameters.names
        alone = policy.left_alone([name for name, p in zip(names, parameters.all, strict=True) if p.dim() > 1])
        if alone:
            log.info("clip=%s leaves %s alone, the last layer's weights", policy.name, ", ".join(alone))
        self._selected = select(names, policy.include, [*policy.exclude, *map(escape, alone)])
        scope = "parameter" if isinstance(policy, ElementwisePolicy) else policy.scope
        self._blocks = make_blocks(scope, parameters, self._selected, optimizer)
        self._memory: Memory = {}  # of all blocks together
        self._memories: dict[int, Memory] = {}  # of elementwise policies: by the parameter's place
        self._step = 0
        self._last: tuple[Tensor, Tensor] | None = None  # norms and limits, for check()

    def apply(self, gradients: Gradients, before: Norms) -> Outcome:
        """Limits the gradients in place. before: the parameters' 2-norms as they are now."""
        own = self._blocks.own(gradients)
        policy = self.policy.at(self._step)
        if isinstance(policy, ElementwisePolicy):
            outcome = self._clamp(policy, own, before)
        else:
            outcome = self._scale(policy, own, before)
        self._step += 1
        self._last = outcome.norms, outcome.limits
        return outcome

    def check(self, gradients: Gradients) -> None:
        """Raises ClipCheckError if a block is not within the limit of the last `apply`. Reads from the device."""
        assert self._last is not None
        norms, limits = self._last
        own, p = self._blocks.own(gradients), self.policy.norm_type
        now = self._blocks.norms(own, p)
        eps = max((torch.finfo(gradient.dtype).eps for gradient in own.values()), default=0.0)
        smallest = max((torch.finfo(g.dtype).tiny * torch.finfo(g.dtype).eps for g in own.values()), default=0.0)
        count = sum(gradient.numel() for gradient in own.values()) or 1
        floor = max(smallest, FLUSHED) * count ** (1 / p)
        within = now <= limits * (1 + TOLERANCE + eps) + floor
        within |= now == 0  # whatever the limit, which may be nan
        within |= ~now.isfinite() & ~norms.isfinite()  # passed on knowingly, by nonfinite=keep
        if not bool(within.all()):
            block = int(torch.argmin(within.int()))
            raise ClipCheckError(
                f"clip={self.policy.name} left {self._blocks.labels[block]} a norm of {now[block].item():.6g} "
                f"where its limit is {limits[block].item():.6g}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, plain numbers and names."""
        names = [self._blocks.labels[self._selected.index(place)] for place in self._memories]
        return {
            "policy": self.policy.name,
            "blocks": list(self._blocks.labels),
            "step": self._step,
            "memory": dict(self._memory),
            "elements": dict(zip(names, map(dict, self._memories.values()), strict=True)),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device, wide: torch.dtype) -> None:
        """Raises ValueError if another policy wrote the state, or the same for other blocks."""
        if state["policy"] != self.policy.name:
            raise ValueError(f"the saved memory belongs to {state['policy']!r}, not to {self.policy.name!r}")
        if state["blocks"] != self._blocks.labels:
            raise ValueError("the saved memory belongs to other blocks: another model, scope, include or exclude")

        def loaded(memory: Memory, to: torch.device) -> Memory:
            return {n: t.to(to, wide if t.dtype == torch.float64 else t.dtype, copy=True) for n, t in memory.items()}

        self._step = state["step"]
        self._memory = loaded(state["memory"], device)
        found = {self._blocks.labels.index(name): memory for name, memory in state["elements"].items()}
        places_of = {self._selected[number]: memory for number, memory in found.items()}
        self._memories = {p: loaded(memory, self._parameters.all[p].device) for p, memory in places_of.items()}

    def _scale(self, policy: Policy, own: Gradients, before: Norms) -> Outcome:
        p, may_look = policy.norm_type, self._parameters.may_look
        norms = self._blocks.norms(own, p, known=before if p == 2.0 else None)
        measured = Measured(
            norms,
            measure_total=lambda: combine(norms, p),
            measure_sizes=lambda: self._blocks.sizes(own, norms.device),
            measure_weights=lambda: self._blocks.norms({place: self._parameters.piece(place) for place in own}, 2.0),
        )
        limits, self._memory = policy.limits(measured, self._memory)
        if policy.caps and policy.max is not None:
            limits = limits.clamp(max=policy.max)
        if may_look and self._blocks.few:
            return self._limited_on_host(policy, own, before, norms, limits)
        # A nan norm exceeds, and makes its block nan, as in torch; a norm of 0 never, not even a limit that is nan.
        exceeds = ~(norms <= limits) & (limits != math.inf) & (norms != 0)
        outcome = Outcome(norms, limits, exceeds.sum(), len(self._blocks), before)
        if policy.kind == "measure":
            return outcome
        if policy.kind == "decision":
            outcome.dropped = bool(exceeds.any())
            return outcome
        changes = (norms != 0) & (norms != limits) if policy.kind == "rescale" else exceeds
        if may_look and not bool(changes.any()):
            return outcome
        scales = torch.where(changes, limits / norms, 1.0)
        self._blocks.multiply(own, scales)
        outcome.after = self._blocks.after(own, before, scales)
        return outcome

    def _limited_on_host(self, policy: Policy, own: Gradients, before: Norms, norms: Tensor, limits: Tensor) -> Outcome:
        """The same in plain floats: an operation on a handful of numbers costs as much as 50,000 elements."""
        pairs = list(zip(norms.tolist(), limits.tolist(), strict=True))
        exceeds = [norm != 0.0 and not norm <= limit and limit != math.inf for norm, limit in pairs]
        outcome = Outcome(norms, limits, sum(exceeds), len(pairs), before)
        if policy.kind == "decision":
            outcome.dropped = any(exceeds)
        if policy.kind == "rescale":
            exceeds = [norm not in (0.0, limit) for norm, limit in pairs]
        if policy.kind in ("limit", "rescale") and any(exceeds):
            scales = [limit / norm if over else 1.0 for (norm, limit), over in zip(pairs, exceeds, strict=True)]
            self._blocks.multiply(own, scales)
            outcome.after = self._blocks.after(own, before, scales)
        return outcome

    def _clamp(self, policy: ElementwisePolicy, own: Gradients, before: Norms) -> Outcome:
        bounds: dict[int, Tensor | float] = {}
        for place, gradient in own.items():
            if policy.remembers and gradient.shape != self._parameters.piece(place).shape:
                raise ValueError(f"clip={policy.name} cannot take a sparse gradient, whose elements change; exclude it")
            bound = policy.bounds(gradient, self._memories.get(place, {}))
            bounds[place] = bound if isinstance(bound, Tensor) else float(bound)
        numbers = {bound for bound in bounds.values() if isinstance(bound, float)}
        if self._parameters.plain and len(numbers) == 1 and not any(isinstance(b, Tensor) for b in bounds.values()):
            outcome = self._clamped_on_host(own, numbers.pop(), before)
        else:
            outcome = self._clamped_each(own, bounds, before)
        for place, gradient in own.items():
            if memory := policy.remember(gradient, self._memories.get(place, {})):
                self._memories[place] = memory
        return outcome

    def _clamped_on_host(self, own: Gradients, bound: float, before: Norms) -> Outcome:
        """All elements clamped to one bound."""
        found = dict(zip(own, clamp_on_host(list(own.values()), bound, self._parameters.plan(own)), strict=True))
        none = Clamped(0.0, 0, None)
        now = before.listed.copy()
        for place, clamped in found.items():
            if clamped.after is not None:
                now[place] = clamped.after
        return Outcome(
            torch.tensor([found.get(place, none).largest for place in self._selected], dtype=torch.float64),
            torch.tensor([bound if place in found else math.inf for place in self._selected], dtype=torch.float64),
            sum(clamped.exceeded for clamped in found.values()),
            sum(gradient.numel() for gradient in own.values()),
            before if now == before.listed else Norms(now),
        )

    def _clamped_each(self, own: Gradients, bounds: Mapping[int, Tensor | float], before: Norms) -> Outcome:
        """Every gradient clamped to bounds of its own, without looking at the values."""
        norms = self._parameters.norms(own, math.inf)
        limits, exceeded = torch.full_like(norms, math.inf), torch.zeros_like(norms)
        for place, gradient in own.items():
            bound = bounds[place]
            if isinstance(bound, float):
                limits[place] = bound
            else:
                limits[place] = bound.amax() if bound.numel() else 0.0  # an empty piece of a sharded parameter
            exceeded[place] = clamp_to(gradient, bound)
        if own:
            now = self._parameters.norms(own)
            if len(own) < len(now):
                chosen = places(tuple(own), now.device)
                now = before.each.index_copy(0, chosen, now[chosen])
            before = Norms(now)
        chosen = places(tuple(self._selected), norms.device)
        return Outcome(
            norms[chosen],
            self._parameters.whole(limits, math.inf)[chosen],
            self._parameters.whole(exceeded, 1.0).sum(),
            sum(self._numbers(place, gradient) for place, gradient in own.items()),
            before,
        )

    def _numbers(self, place: int, gradient: Tensor) -> int:
        """How many elements the gradient has, of which this process may hold a piece."""
        return self._parameters.all[place].numel() if self._parameters.cuts[place] else gradient.numel()
