"""Clipper: one policy, or a chain of them, with the norms before and after."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from gradclip.clamping import count_at_bound
from gradclip.errors import ClipCheckError, NonFiniteGradientError
from gradclip.gradients import Gradients, Parameters
from gradclip.outcome import Outcome, merge
from gradclip.policies import BlockPolicy, Chain, Policy
from gradclip.policies.base import policy_instance
from gradclip.policy_runner import FTZ_TOLERANCE, TOLERANCE, PolicyRunner
from gradclip.report import ClipReport
from gradclip.tally import ClipSummary, Tally

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.optim import Optimizer


class _Clipped(NamedTuple):
    """What the last call of clip() left: the parameters' names, their gradients' ids, and 2-norms, [parameters]."""

    names: tuple[str, ...]
    ids: list[int]
    norms: Tensor
    dropped: bool


class Clipper:
    """Clips the gradients of a model in place, and reports their norms before and after.

    source: a module, whose parameters are looked up at each call, or `named_parameters()`, which fixes the parameters
        and does not show which of them belong to transposed convolutions. Parameters without a gradient are skipped,
        and a tied one counts once. For several models: `nn.ModuleDict({"generator": …, "discriminator": …})`.
    policy: an instance of a class in `Policy.options`, or of your own. Its fields may be changed between calls; those
        that determine what its memory means (scope, norm_type, window, warmup) only while it has no memory. A
        GradScaler, which finds its scale by overflowing, needs `nonfinite=drop`.
    optimizer: one or several; needed for the scope `group`, and for `check()` to find gradients that the
        optimizer will use and that are not the Clipper's.
    process_group: one or several, whose processes hold different parameters (a pipeline), so that norms are over
        all of them; or a mapping of glob patterns of parameter names to their groups (experts), where all other
        parameters are the same on every process. DTensors need none.

    A block is a set of gradients that are measured together: the whole model, a parameter group, a layer, a parameter,
    or a unit, as the policy's scope says. With `process_group` the blocks of the scopes model and group extend over the
    processes; the blocks of the other scopes belong to one process, and so do `norms`, `limits` and `fraction` of its
    report.

    The model, the optimizer and the policy are read at each call, so that each may be changed between calls. An
    adaptive policy's memory is kept by the names of its blocks: a block that is added later starts with an empty one.
    """

    def __init__(
        self,
        source: nn.Module | Iterable[tuple[str, Parameter]],
        policy: Policy,
        *,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        process_group: ProcessGroup | Sequence[ProcessGroup] | Mapping[str, Any] | None = None,
    ):
        self._parameters = Parameters(source, process_group)
        self._optimizers = _listed_optimizers(optimizer)
        self.policy = policy_instance(policy)
        self._runners = self._new_runners()
        self._nonfinite: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
        self._last: _Clipped | None = None
        self._warned = False
        self._tally = Tally()
        parameters = self._parameters.read(with_gradients=False)
        if self._optimizers and not self._optimized() & set(map(id, parameters.parameters)):
            raise ValueError("optimizer has none of the Clipper's parameters")
        for runner in self._runners.values():
            runner.blocks(parameters)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the last call of clip(): a copy has gradients of its own, which have not been clipped."""
        return {**vars(self), "_last": None}

    @torch.no_grad()
    def clip(self) -> ClipReport:
        """Clips the gradients by the policy, in place. Call it after backward and before the optimizer's step.

        Raises NonFiniteGradientError for a non-finite gradient under `nonfinite=error`: at once on the CPU. On an
        accelerator all gradients of such a step become 0 and `raise_if_nonfinite()` raises later, so that no step
        waits for the device. Raises InvalidField or ValueError for a policy or a model whose change does not fit
        the other or the policy's memory.
        """
        self._last = None
        self._refresh()
        gradients = self._parameters.read()
        if not gradients.indices and not self._warned:
            self._warned = True
            warnings.warn("clip() found no gradient: none of the Clipper's parameters has one", stacklevel=3)
        mode = self.policy.nonfinite
        reads = gradients.on_host or mode == "drop"  # whether values are read, which waits for an accelerator
        if mode == "zero" and not reads:
            gradients.zero_nonfinite()
        before = gradients.norms()
        total, dropped = gradients.total(before), False
        norms = before
        if mode == "error" and not reads:
            bad = self._remember_nonfinite(gradients, before)
            gradients.zero_if(bad)
            norms = before.masked_fill(bad, 0)  # a norm of 0 enters no memory
        elif mode != "keep" and reads and not math.isfinite(total.item()):  # equal on all processes
            dropped = self._handle_nonfinite(gradients)
            before = norms = gradients.norms()
            total = gradients.total(before)
        outcome = _skipped(before) if dropped else self._apply(gradients, norms)
        self._last = _Clipped(gradients.names, gradients.ids(), outcome.after, outcome.dropped)
        self._tally.add(total, outcome.limited, outcome.key(), outcome.labels, outcome.dropped)
        unchanged = outcome.after is before and not gradients.partition
        return ClipReport(
            before=total,
            after=total if unchanged else gradients.total(outcome.after),
            norms=outcome.norms,
            limits=outcome.limits,
            limited=outcome.limited,
            dropped=outcome.dropped,
            names=gradients.names,
            parameter_before=before,
            parameter_after=outcome.after,
            get_labels=outcome.labels,
            count_elements=None if outcome.elements is None else partial(self._share_of_elements, outcome, self._last),
        )

    @torch.no_grad()
    def check(self) -> None:
        """Measures the gradients again. Call it right before the optimizer's step. Reads from the device.

        Raises NonFiniteGradientError as `raise_if_nonfinite()` does, and ClipCheckError unless every gradient is
        the tensor that `clip()` left, with the norm in the last report, and within the limits: it finds gradients
        that were clipped while still scaled for AMP, clipped before backward, added to after `clip()`, not limited by
        a faulty policy, or nan, unless `nonfinite=keep`. With `optimizer=` it finds gradients that the optimizer will
        use and that `clip()` did not clip. It does not find a change in place that keeps the gradient's norm to 5e-6,
        such as a change of sign.
        """
        self.raise_if_nonfinite()
        last = self._last
        if last is None:
            raise ClipCheckError("check() was called before clip()")
        gradients = self._parameters.read()
        self._check_unchanged(gradients, last)
        self._check_optimizers(gradients)
        if last.dropped:
            return
        # In a chain a link that rescales upward may exceed the limits of the links before it.
        runners = list(self._runners.values())
        start = max((index for index, runner in enumerate(runners) if runner.policy.kind == "rescale"), default=0)
        for runner in runners[start:]:
            runner.check(gradients)

    def raise_if_nonfinite(self) -> None:
        """Raises NonFiniteGradientError if a gradient was not finite since the last call, under `nonfinite=error`.

        Reads from the device. On an accelerator, where `clip()` reads no values, call it every few steps.
        """
        pending, self._nonfinite = self._nonfinite, []
        for names, flags, step in pending:
            if bool(step > 0):
                raise NonFiniteGradientError(_chosen(names, flags), step=int(step))

    def summary(self) -> ClipSummary:
        """What all calls of `clip()` did so far; print it. Reads from the device, and is not part of the state."""
        return self._tally.summary()

    def state_dict(self) -> dict[str, Any]:
        """Each policy's name, options, blocks, step and memory, by its label in the chain ("" without a chain)."""
        return {label: runner.state_dict() for label, runner in self._runners.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved memory; raises ValueError if its policy, options or blocks differ from this Clipper's."""
        if state.keys() != self._runners.keys():
            raise ValueError(f"the saved memory has the links {list(state)}, and the chain {list(self._runners)}")
        parameters, runners = self._parameters.read(with_gradients=False), self._new_runners()
        for label, runner in runners.items():
            runner.load_state_dict(state[label], parameters)
        self._runners, self._last = runners, None

    def _new_runners(self) -> dict[str, PolicyRunner]:
        policy = policy_instance(self.policy)  # which may have been replaced
        links = policy.links if isinstance(policy, Chain) else {"": policy}
        return {label: PolicyRunner(_block_policy(link), self._optimizers) for label, link in links.items()}

    def _refresh(self) -> None:
        """Adopts a changed or replaced policy; raises InvalidField, or ValueError if the memory does not fit."""
        if isinstance(self.policy, Chain):
            self.policy.__post_init__()  # the links are validated below
        runners = self._new_runners()
        before, now = ([(label, id(r.policy)) for label, r in old.items()] for old in (self._runners, runners))
        if before != now:
            first = next(iter(self._runners.values()))
            for label, runner in runners.items():
                runner.policy.__post_init__()
                runner.adopt(self._runners.get(label, first))
            self._runners = runners
        for runner in self._runners.values():
            runner.refresh()

    def _apply(self, gradients: Gradients, norms: Tensor) -> Outcome:
        """Applies all policies, one after the other. norms: the gradients' 2-norms, [parameters]."""
        outcomes: dict[str, Outcome] = {}
        for label, runner in self._runners.items():
            outcomes[label] = runner.apply(gradients, norms, count=len(self._runners) > 1)
            norms = outcomes[label].after
        return merge(outcomes)

    def _handle_nonfinite(self, gradients: Gradients) -> bool:
        """Handles a non-finite total norm as the policy's `nonfinite` says; returns whether the step is dropped.

        Finite elements may have a 2-norm beyond float64, so the largest element of each gradient decides.
        """
        largest = gradients.norms(math.inf)
        bad = ~largest.isfinite()
        if not bool(gradients.total(bad.to(largest.dtype), math.inf)):
            return False
        if self.policy.nonfinite == "zero":
            gradients.zero_nonfinite()
            return False
        for runner in self._runners.values():
            runner.step += 1
        if self.policy.nonfinite == "error":
            raise NonFiniteGradientError(_chosen(gradients.names, bad))
        return True

    def _remember_nonfinite(self, gradients: Gradients, norms: Tensor) -> Tensor:
        """Whether any gradient is not finite, 0-d. Records the first such step and its parameters on the device."""
        bad = ~norms.isfinite()
        anywhere = gradients.total(bad.to(norms.dtype), math.inf) > 0
        step = anywhere * (next(iter(self._runners.values())).step + 1)
        if self._nonfinite and self._nonfinite[-1][0] == gradients.names:
            _, old_bad, old_step = self._nonfinite.pop()
            bad, step = torch.where(old_step > 0, old_bad, bad), torch.where(old_step > 0, old_step, step)
        self._nonfinite.append((gradients.names, bad, step))
        return anywhere

    def _check_unchanged(self, gradients: Gradients, last: _Clipped) -> None:
        """Raises ClipCheckError unless the gradients are those that clip() left. Reads from the device."""
        # Measure before raising anything: other processes would wait for this one in the collective.
        measured, reported = gradients.norms(), last.norms
        self._check_ids(gradients, last)
        largest = max((gradients.parameters[index].numel() for index in gradients.indices), default=1)
        same = (measured - reported).abs() <= TOLERANCE * reported + FTZ_TOLERANCE * largest**0.5
        same |= ~reported.isfinite() & ~measured.isfinite()
        if not bool(same.all()):
            index = int(torch.argmin(same.int()))
            raise ClipCheckError(
                f"{last.names[index]}: its gradient has norm {measured[index].item():.6g} before the optimizer's "
                f"step, but had {reported[index].item():.6g} after clip(): it was changed in between"
            )

    @torch.no_grad()
    def _share_of_elements(self, outcome: Outcome, last: _Clipped) -> Tensor:
        """The share of elements at their bound, 0-d, which is counted if it was not; raises ClipCheckError."""
        reached, elements = outcome.reached, torch.as_tensor(outcome.elements, device=outcome.norms.device)
        if reached is None:
            if last is not self._last:
                raise ClipCheckError(
                    "fraction counts elements when it is first read: read it before clip() or load_state_dict()"
                )
            gradients = self._parameters.read()
            try:
                self._check_unchanged(gradients, last)
            except ClipCheckError as error:
                raise ClipCheckError(f"fraction counts elements when it is first read, and {error}") from None
            (blocks,) = outcome.blocks.values()
            tensors = [tensor for index in blocks.selected if (tensor := gradients.tensors[index]) is not None]
            reached = count_at_bound(tensors, outcome.limits.min().item(), outcome.limits).sum()
        return reached / elements.clamp(min=1)

    def _check_ids(self, gradients: Gradients, last: _Clipped) -> None:
        for name in {*last.names} ^ {*gradients.names}:
            change = "removed" if name in last.names else "added"
            raise ClipCheckError(f"{name}: the parameter was {change} after clip()")
        for name, then, now in zip(last.names, last.ids, gradients.ids(), strict=True):
            if then != now:
                raise ClipCheckError(f"{name}: its gradient was changed between clip() and step()")

    def _check_optimizers(self, gradients: Gradients) -> None:
        seen = set(map(id, gradients.parameters))
        for optimizer in self._optimizers:
            for number, group in enumerate(optimizer.param_groups):
                for index, parameter in enumerate(group["params"]):
                    if parameter.grad is not None and id(parameter) not in seen:
                        raise ClipCheckError(
                            f"parameter {index} of group {number} of {type(optimizer).__name__}, of shape "
                            f"{list(parameter.shape)}, has a gradient, and is not a parameter of the Clipper"
                        )

    def _optimized(self) -> set[int]:
        """The ids of all parameters of the optimizers."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        return {id(parameter) for group in groups for parameter in group["params"]}


def _listed_optimizers(optimizer: Any) -> list[Optimizer]:
    optimizers = [] if optimizer is None else list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    for each in optimizers:
        if not hasattr(each, "param_groups"):
            raise TypeError(f"optimizer must be an optimizer, or a list of them, not {type(each).__name__}")
    return optimizers


def _block_policy(policy: Policy) -> BlockPolicy:
    if not isinstance(policy, BlockPolicy):
        raise TypeError(f"{type(policy).__name__}: a policy derives from LimitPolicy or BlockPolicy")
    return policy


def _chosen(names: Sequence[str], flags: Tensor) -> list[str]:
    return [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]


def _skipped(before: Tensor) -> Outcome:
    """The outcome of a step that is dropped for a non-finite gradient: nothing is measured or limited."""
    empty = before.new_zeros(0)
    return Outcome(empty, empty, empty > 0, before, {}, dropped=True)
