"""One policy at work on its own gradients: measure, ask for the limit, scale."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradclip.blocks import make_blocks
from gradclip.errors import ClipCheckError
from gradclip.gradients import Gradients, Norms, Parameters, places, select
from gradclip.norms import Plan, combine
from gradclip.policies import ElementwisePolicy, Measured, Memory, Policy

if TYPE_CHECKING:
    from torch.optim import Optimizer

log = logging.getLogger(__name__)

TOLERANCE = 5e-6  # relative: twice the error of a norm, and the rounding of a product
IN_CACHE = 1 << 17  # elements: half a megabyte in float32
FLUSHED = 1.2e-38  # what a float32 unit that flushes to zero may lose of an element


@dataclass
class Outcome:
    """What a link found and did.

    norms, limits: [blocks]. exceeded, total: how many blocks (elements, for elementwise policies) were over
    their limit, of how many. after: the parameters' 2-norms; None where only measuring can tell.
    """

    norms: Tensor
    limits: Tensor
    exceeded: Tensor
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
        exceeded=torch.stack([outcome.exceeded for outcome in outcomes]).sum(),
        total=sum(outcome.total for outcome in outcomes),
        after=outcomes[-1].after,
        dropped=any(outcome.dropped for outcome in outcomes),
    )


class Link:
    """A policy, the blocks of its scope, and its memory."""

    def __init__(self, policy: Policy, parameters: Parameters, optimizer: Optimizer | None):
        self.policy = policy
        self._parameters = parameters
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
        within = norms <= limits
        if may_look and policy.kind != "rescale" and bool(within.all()):
            return Outcome(norms, limits, norms.new_zeros(()), len(self._blocks), before)
        exceeds = ~within & (limits != math.inf)  # a nan norm exceeds, and makes its block nan, as in torch
        outcome = Outcome(norms, limits, exceeds.sum(), len(self._blocks), before)
        if policy.kind == "measure":
            return outcome
        if policy.kind == "decision":
            outcome.dropped = bool(exceeds.any())
            return outcome
        changes = (norms != 0) & (norms != limits) if policy.kind == "rescale" else exceeds
        scales = torch.where(changes, limits / norms, 1.0)
        self._blocks.multiply(own, scales, changes if may_look else None)
        after = self._blocks.after(own, before.each, scales)
        outcome.after = None if after is None else Norms(after)
        return outcome

    def _clamp(self, policy: ElementwisePolicy, own: Gradients, before: Norms) -> Outcome:
        norms = self._parameters.norms(own, math.inf)
        limits, exceeded = torch.full_like(norms, math.inf), torch.zeros_like(norms)
        looked = norms.tolist() if self._parameters.may_look else None
        changed: list[int] = []
        together: dict[float, list[int]] = {}  # by their bound: those that exceed it, where looking is free
        for place, gradient in own.items():
            memory = self._memories.get(place, {})
            if policy.remembers and gradient.shape != self._parameters.piece(place).shape:
                raise ValueError(f"clip={policy.name} cannot take a sparse gradient, whose elements change; exclude it")
            bound = policy.bounds(gradient, memory)
            if isinstance(bound, float):
                limits[place] = bound
            else:
                limits[place] = bound.amax() if bound.numel() else 0.0  # an empty piece of a sharded parameter
            if looked and isinstance(bound, float):
                together.setdefault(bound, []).extend([place] if not looked[place] <= bound else [])
            else:
                changed.append(place)
                exceeded[place] = _clamp_to(gradient, bound)
            if memory := policy.remember(gradient, memory):
                self._memories[place] = memory
        for bound, over in together.items():
            if over:
                plan = self._parameters.plan({place: own[place] for place in over})
                exceeded[over] = clamp_together([own[place] for place in over], bound, plan).to(exceeded)
                changed += over
        chosen = places(tuple(self._selected), norms.device)
        return Outcome(
            norms[chosen],
            self._parameters.whole(limits, math.inf)[chosen],
            self._parameters.whole(exceeded, 1.0).sum(),
            sum(self._numbers(place, gradient) for place, gradient in own.items()),
            self._again(own, changed, before),
        )

    def _again(self, own: Gradients, changed: list[int], before: Norms) -> Norms:
        """The parameters' 2-norms, of which those of the changed ones are measured again."""
        if not changed:
            return before
        now = self._parameters.norms({place: own[place] for place in changed})
        chosen = places(tuple(changed), now.device)
        return Norms(now if len(changed) == len(now) else before.each.index_copy(0, chosen, now[chosen]))

    def _numbers(self, place: int, gradient: Tensor) -> int:
        """How many elements the gradient has, of which this process may hold a piece."""
        return self._parameters.all[place].numel() if self._parameters.cuts[place] else gradient.numel()


def _clamp_to(gradient: Tensor, bound: Tensor | float) -> Tensor:
    """Clamps every element to its bound, in place; 0-d, how many exceeded it."""
    if isinstance(bound, float):
        if bound >= torch.finfo(gradient.dtype).max:
            return torch.zeros((), dtype=torch.long, device=gradient.device)
        exceeded = (gradient.abs() > bound).sum()
        gradient.clamp_(-bound, bound)
        return exceeded
    exceeded = (gradient.abs() > bound).sum()
    bound = bound.to(gradient.dtype)
    gradient.copy_(gradient.clamp(-bound, bound).where(~gradient.isnan(), gradient))
    return exceeded


def clamp_together(gradients: Sequence[Tensor], bound: float, plan: Plan) -> Tensor:
    """Clamps every element to one bound, in place, on the CPU; [gradients], how many of each exceeded it."""
    counts = []
    for group, rows in zip(plan.groups, plan.rows(gradients), strict=True):
        if len(group) > 1 or rows.dtype != torch.float32 or rows.data_ptr() != gradients[group[0]].data_ptr():
            counts.append((rows.abs() > bound).sum(1))
            for place in group:
                gradients[place].clamp_(-bound, bound)
            continue
        count = 0
        for part in torch.split(rows[0], IN_CACHE):  # still in the core's cache when it is clamped
            count += int(part.abs().gt_(bound).sum().item())
            part.clamp_(-bound, bound)
        counts.append(torch.tensor([count]))
    return plan.in_order(torch.cat(counts))
