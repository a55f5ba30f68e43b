"""Applies one policy: measures the gradients that it selects, computes their limits, and scales or clamps them."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from gradclip.clamping import clamp, clamp_each, clamped, count_at_bound
from gradclip.distributed import gather_norms, local_tensor
from gradclip.errors import ClipCheckError
from gradclip.gradients import Gradients, select
from gradclip.norms import index_tensor, wide_dtype
from gradclip.outcome import Outcome
from gradclip.policies import BlockPolicy, ElementwisePolicy, LimitPolicy, Measured, Memory, Policy
from gradclip.scopes import Blocks, make_blocks

TOLERANCE = 5e-6  # relative: twice the error of a norm, and the rounding of a product
FTZ_TOLERANCE = 1.2e-38  # what a float32 unit that flushes subnormal numbers to zero may lose of an element


def plain_fields(policy: Policy) -> dict[str, Any]:
    """Copies the policy's fields that hold plain values, so that a later change can be detected."""
    plain = (str, int, float, bool, list, type(None))
    return {name: copy.copy(value) for name, value in vars(policy).items() if isinstance(value, plain)}


def cap_of(policy: BlockPolicy) -> float | None:
    """A policy's additional cap on its limits; None for a policy whose `max` is the limit itself."""
    return policy.max if isinstance(policy, LimitPolicy) and policy.max_is_cap else None


def _one_number(bounds: Collection[Tensor | float]) -> float | None:
    """The bound that all parameters have, None if there is none or bounds differ between elements."""
    numbers = {bound for bound in bounds if not isinstance(bound, Tensor)}
    return numbers.pop() if len(numbers) == 1 and not any(isinstance(bound, Tensor) for bound in bounds) else None


class PolicyRunner:
    """A policy, its memory and its step count; the blocks are computed at each call.

    optimizers: their parameter groups are the blocks of the scope `group`.
    step: the number of steps so far, dropped ones included.
    """

    def __init__(self, policy: BlockPolicy, optimizers: Sequence[Any]):
        self.policy, self.step = policy, 0
        self._optimizers = optimizers
        self._memory: Memory = {}  # one row per block, in the order of _labels
        self._elements: dict[str, Memory] = {}  # elementwise policies: by parameter name
        self._labels: tuple[str, ...] = ()  # of the blocks in _memory
        self._last: tuple[Tensor, Tensor] | None = None  # norms and limits, for check()
        self._known = plain_fields(policy)

    def refresh(self) -> None:
        """Validates a changed policy; raises InvalidField, or ValueError if the memory does not fit."""
        if plain_fields(self.policy) == self._known:
            return
        self.policy.__post_init__()
        if self._memory or self._elements:
            self._compare(self._known, f"clip={self.policy.name} was changed after its memory was made with")
        self._known = plain_fields(self.policy)

    def blocks(self, gradients: Gradients) -> Blocks:
        """The blocks of the policy's scope; raises ValueError if include, exclude or scope do not suit the model."""
        include, exclude = tuple(self.policy.include), tuple(self.policy.exclude)
        selected = select(gradients.names, include, exclude, bool(gradients.partition))
        return make_blocks(self.policy.scope, gradients, selected, self._optimizers)

    def apply(self, gradients: Gradients, before: Tensor, *, count: bool) -> Outcome:
        """Clips the gradients in place.

        before: the parameters' 2-norms, [parameters]. count: whether elements at their bound are counted now, since
        they cannot be counted later.
        """
        policy, blocks = self.policy, self.blocks(gradients)
        if isinstance(policy, LimitPolicy):
            policy = policy.at(self.step)
        if isinstance(policy, ElementwisePolicy):
            outcome = self._clamp(policy, gradients, blocks, before, count)
        else:
            outcome = self._scale(policy, gradients, blocks, before)
        self.step += 1
        self._last = outcome.norms, outcome.limits
        return outcome

    def check(self, gradients: Gradients) -> None:
        """Raises ClipCheckError if a block exceeds the limit of the last `apply`. Reads from the device."""
        assert self._last is not None
        norms, limits = self._last
        blocks, p = self.blocks(gradients), self.policy.norm_type
        now = blocks.norms(gradients, p)
        tensors = [tensor for index in blocks.selected if (tensor := gradients.tensors[index]) is not None]
        infos = [torch.finfo(tensor.dtype) for tensor in tensors]
        eps = max((info.eps for info in infos), default=0.0)
        smallest = max((info.tiny * info.eps for info in infos), default=0.0)
        floor = max(smallest, FTZ_TOLERANCE) * (sum(tensor.numel() for tensor in tensors) or 1) ** (1 / p)
        within = now <= limits * (1 + TOLERANCE + eps) + floor
        within |= now == 0  # even where the limit is nan
        within |= ~now.isfinite() & ~norms.isfinite()  # nonfinite=keep lets them pass
        if not bool(within.all()):
            block = int(torch.argmin(within.int()))
            raise ClipCheckError(
                f"clip={self.policy.name} left {blocks.labels[block]} a norm of {now[block].item():.6g} "
                f"where its limit is {limits[block].item():.6g}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors, plain numbers and names."""
        return {
            "policy": self.policy.name,
            "options": self._options(),
            "blocks": list(self._labels),
            "step": self.step,
            "memory": dict(self._memory),
            "elements": {name: dict(memory) for name, memory in self._elements.items()},
        }

    def load_state_dict(self, state: dict[str, Any], gradients: Gradients) -> None:
        """Restores a state; raises ValueError if its policy, its options or its blocks are not this runner's."""
        if state["policy"] != self.policy.name:
            raise ValueError(f"the saved memory belongs to {state['policy']!r}, not to {self.policy.name!r}")
        self._compare(state.get("options", {}), "the saved memory was written with")
        saved_labels, labels = set(state["blocks"]), set(self.blocks(gradients).labels) if state["blocks"] else set()
        for label in sorted((saved_labels ^ labels) | (state["elements"].keys() - set(gradients.names))):
            owner = "the model" if label in labels else "the saved memory"
            raise ValueError(f"the saved memory belongs to other blocks: only {owner} has {label}")
        for name, parameter in zip(gradients.names, gradients.parameters, strict=True):
            shape = local_tensor(parameter).shape
            if any(saved.dim() and saved.shape != shape for saved in state["elements"].get(name, {}).values()):
                raise ValueError(f"the saved memory of {name} does not have the parameter's shape, {list(shape)}")

        def clone(memory: Memory) -> Memory:
            return {name: tensor.detach().clone() for name, tensor in memory.items()}

        self.step, self._labels, self._memory = state["step"], tuple(state["blocks"]), clone(state["memory"])
        self._elements = {name: clone(memory) for name, memory in state["elements"].items()}

    def adopt(self, other: PolicyRunner) -> None:
        """Takes over another runner's step, and its memory if the policy has the same name; raises ValueError if
        the options that the memory depends on differ."""
        self.step = other.step
        if self.policy.name == other.policy.name and (other._memory or other._elements):
            self._compare(other._known, f"clip={self.policy.name} was changed after its memory was made with")
            self._labels, self._memory, self._elements = other._labels, other._memory, other._elements

    def _compare(self, options: dict[str, Any], message: str) -> None:
        for name, value in self._options().items():
            if options.get(name) != value:
                raise ValueError(f"{message} {name}={options.get(name)}, and has {name}={value} now")

    def _options(self) -> dict[str, Any]:
        """The policy's fields that determine what the numbers in its memory mean."""
        names = ("scope", "norm_type", "window", "warmup")
        return {name: getattr(self.policy, name) for name in names if hasattr(self.policy, name)}

    def _scale(self, policy: BlockPolicy, gradients: Gradients, blocks: Blocks, before: Tensor) -> Outcome:
        p = policy.norm_type
        parameter_norms = before if p == 2.0 else gradients.norms(p)
        norms = blocks.norms(gradients, p, parameter_norms)
        measured = Measured(
            norms,
            measure_total=lambda: gradients.total(parameter_norms, p, blocks.selected),
            measure_sizes=lambda: blocks.sizes(gradients),
            measure_weights=lambda: blocks.weight_norms(gradients),
        )
        limits, memory = policy.limits(measured, self._memory_for(policy, blocks, norms))
        for name, tensor in {"limits": limits, **memory}.items():
            if tensor.dim() == 0 or len(tensor) != len(blocks):
                raise ValueError(
                    f"clip={policy.name}: its {name} have the shape {list(tensor.shape)}, not [{len(blocks)}, …]"
                )
        self._memory, self._labels = memory, blocks.labels if memory else ()
        if (cap := cap_of(policy)) is not None:
            limits = limits.clamp(max=cap)
        # A nan norm counts as exceeding and makes its block nan, as in torch; a norm of 0 never exceeds, even if its
        # limit is nan.
        exceeds = ~(norms <= limits) & (limits != math.inf) & (norms != 0)
        outcome = Outcome(norms, limits, exceeds, before, {"": blocks})
        if policy.kind == "decision":
            outcome.dropped = bool(exceeds.any())
        if policy.kind not in ("limit", "rescale"):
            return outcome
        changes = (norms != 0) & (norms != limits) if policy.kind == "rescale" else exceeds
        # With a partition a process must not skip this on its own values: `after` may call a collective.
        if gradients.partition or not gradients.on_host or bool(changes.any()):
            scales = torch.where(changes, limits / norms, 1.0)
            if not gradients.on_host:  # the scales are not read, so keep them within float32's range
                scales = scales.clamp(max=torch.finfo(torch.float32).max)
            blocks.multiply(gradients, scales)
            outcome.after = blocks.after(gradients, before, scales)
        return outcome

    def _memory_for(self, policy: BlockPolicy, blocks: Blocks, norms: Tensor) -> Memory:
        """The memory on the device of the norms, with an initial row for each block that has none yet."""
        if not self._memory:
            return {}
        wide = wide_dtype(norms.device)
        memory = {n: t.to(norms.device, wide if t.is_floating_point() else t.dtype) for n, t in self._memory.items()}
        if blocks.labels == self._labels:
            return memory
        # Norms of 0 enter no memory, so this returns the initial memory.
        zeros = norms.new_zeros(len(blocks))
        _, initial = policy.limits(Measured(zeros, lambda: zeros.sum(), lambda: zeros, lambda: zeros), {})
        number = {label: block for block, label in enumerate(self._labels)}
        kept = [block for block, label in enumerate(blocks.labels) if label in number]
        old = [number[blocks.labels[block]] for block in kept]
        for name, tensor in memory.items():
            rows = initial[name]
            if rows.shape[1:] != tensor.shape[1:]:  # a history that grows with the steps; a new block's is empty
                rows = rows[:, :1].expand(-1, *tensor.shape[1:])
            memory[name] = rows.clone()
            memory[name][kept] = tensor[old]
        return memory

    def _clamp(
        self, policy: ElementwisePolicy, gradients: Gradients, blocks: Blocks, before: Tensor, count: bool
    ) -> Outcome:
        tensors = {index: tensor for index in blocks.selected if (tensor := gradients.tensors[index]) is not None}
        memories = {index: self._memory_of(policy, gradients, index, tensor) for index, tensor in tensors.items()}
        bounds = {index: policy.bounds(tensor, memories[index]) for index, tensor in tensors.items()}
        uncapped = tensors  # a memory takes the gradients before the cap
        if (cap := cap_of(policy)) is not None:
            uncapped = {index: clamped(tensor, bounds[index]) for index, tensor in tensors.items()}
            bounds = {i: b.clamp(max=cap) if isinstance(b, Tensor) else min(b, cap) for i, b in bounds.items()}
        chosen, after = index_tensor(tuple(tensors), before.device), before
        zeros, no_bound = torch.zeros_like(before), torch.full_like(before, -1.0)  # where there is no gradient
        bound = _one_number(bounds.values())
        reached: Tensor | None = None
        if bound is not None:
            listed = list(tensors.values())
            largest, limited, measured = clamp(listed, bound, before[chosen])
            after = before.index_copy(0, chosen, measured)
            parts = [largest, limited.to(largest), torch.full_like(largest, bound)]
            if count or gradients.shards:
                reached = zeros.index_copy(0, chosen, count_at_bound(listed, bound, before))
        elif tensors:
            rows = [torch.stack(clamp_each(tensor, bounds[index])).to(before) for index, tensor in tensors.items()]
            largest, counted, most = torch.stack(rows, 1)
            reached = zeros.index_copy(0, chosen, counted)
            parts = [largest, (counted > 0).to(largest), most]
            after = before if gradients.shards else gradients.norms()
        else:
            reached, parts = zeros, [zeros[:0], zeros[:0], zeros[:0]]
        figures = [zeros, zeros, no_bound]
        largest, limited, limits = (f.index_copy(0, chosen, part) for f, part in zip(figures, parts, strict=True))
        for index in tensors:
            if memory := policy.remember(uncapped[index], memories[index]):
                self._elements[gradients.names[index]] = memory
        if len(self._elements) > len(gradients.names):  # parameters were removed
            self._elements = {name: self._elements[name] for name in gradients.names if name in self._elements}
        if gradients.shards and reached is not None:
            joined = torch.cat([largest, limits, limited])
            largest, limits, limited = gather_norms(joined, gradients.shards * 3, math.inf).chunk(3)
            reached, after = gather_norms(reached, gradients.shards, 1.0), gradients.norms()
        chosen = index_tensor(blocks.selected, before.device)
        total: Tensor | int = sum(tensor.numel() for tensor in tensors.values())
        if gradients.shards:  # counts a parameter whole if any process has a gradient of it
            sizes = index_tensor(tuple(parameter.numel() for parameter in gradients.parameters), before.device)
            total = sizes.where(limits >= 0, 0)[chosen].sum()
        limits = limits.where(limits >= 0, math.inf)
        outcome = Outcome(largest[chosen], limits[chosen], limited[chosen] > 0, after, {"": blocks}, total)
        outcome.reached = None if reached is None else reached[chosen].sum()
        return outcome

    def _memory_of(self, policy: ElementwisePolicy, gradients: Gradients, index: int, tensor: Tensor) -> Memory:
        """The memory of a parameter's elements on its device; empty if the parameter's shape has changed."""
        name = gradients.names[index]
        if tensor.is_complex():
            raise TypeError(f"clip={policy.name} cannot limit the elements of {name}, which are complex; exclude it")
        if policy.remembers and tensor.shape != local_tensor(gradients.parameters[index]).shape:
            raise ValueError(
                f"clip={policy.name} cannot take the sparse gradient of {name}: its elements change; exclude it"
            )
        memory = self._elements.get(name, {})
        if any(values.dim() and values.shape != tensor.shape for values in memory.values()):
            return {}
        return {key: values.to(tensor.device) for key, values in memory.items()}
