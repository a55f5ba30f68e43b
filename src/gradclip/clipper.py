"""Clipper and ClipReport: one policy, or a chain of them, with the norms before and after."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from gradclip.errors import ClipCheckError, NonFiniteGradientError
from gradclip.gradients import Gradients, Parameters
from gradclip.policies import BlockPolicy, Chain, Policy
from gradclip.policy_runner import FTZ_TOLERANCE, TOLERANCE, Outcome, PolicyRunner, merge

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.optim import Optimizer


@dataclass(frozen=True)
class ClipReport:
    """What one call of `clip()` found and did; tensors stay on the gradients' device until they are read.

    before, after: 0-d, the 2-norm of all gradients that the Clipper was given, whatever the policy measures.
    norms, limits: [blocks], what the policy measured and allowed, in its own norm_type
        (elementwise policies: a parameter's largest element, and the bound of its elements).
    fraction: 0-d, the share of blocks (elementwise policies: of elements) that exceeded their limit.
    dropped: the step is to be left out.
    """

    before: Tensor
    after: Tensor
    norms: Tensor
    limits: Tensor
    fraction: Tensor
    dropped: bool
    names: tuple[str, ...]
    parameter_before: Tensor
    parameter_after: Tensor

    def by_parameter(self) -> dict[str, tuple[float, float]]:
        """Each parameter's 2-norm before and after; 0 where there was no gradient. Waits for the device."""
        before, after = torch.stack([self.parameter_before, self.parameter_after]).tolist()
        return dict(zip(self.names, zip(before, after, strict=True), strict=True))


class Clipper:
    """Clips the gradients of a model in place, and reports their norms before and after.

    source: a module, whose parameters are looked up at each call, or `named_parameters()`, whose parameters are
        taken as they are, without knowing which of them belong to transposed convolutions. Parameters without a
        gradient, unused or frozen, are left alone, and a tied one counts once. For several models:
        `nn.ModuleDict({"generator": …, "discriminator": …})`.
    policy: one of `Policy.options`. Its fields may be changed between calls, but for those that say what its memory
        means (scope, norm_type, window, warmup) once there is one. With a GradScaler, whose scale is found by
        overflowing, it needs `nonfinite=drop`.
    optimizer: one or several; needed for the scope `group`, and for `check()` to find gradients that the
        optimizer will use and the Clipper has not seen.
    process_group: one or several, whose processes hold different parameters (a pipeline), so that norms are those
        of all of them; or glob patterns of parameter names with their groups (experts), where all other parameters
        are the same on every process. DTensors need none.

    A block is what is measured together: a scope's model, group, layer, parameter or unit. With `process_group` the
    blocks of the scopes model and group extend over the processes; those of the other scopes are a process's
    own, and so are `norms`, `limits` and `fraction` of its report.

    Nothing that the model, the optimizer or the policy may change is kept from one call to the next. An adaptive
    policy's memory is kept by the names of its blocks: a block that joins later begins with an empty one.
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
        self._optimizers = (
            [] if optimizer is None else list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        )
        self.policy = policy
        self._runners = self._new_runners()
        self._nonfinite: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
        self._report: ClipReport | None = None
        self._seen: tuple[tuple[str, ...], list[int]] = (), []  # the names in the last clip(), and the gradients' ids
        self._warned = False
        parameters = self._parameters.read(with_gradients=False)
        for runner in self._runners.values():
            runner.blocks(parameters)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has gradients of its own, of which there is no report yet."""
        return {**vars(self), "_report": None}

    @torch.no_grad()
    def clip(self) -> ClipReport:
        """Limits the gradients as the policy says; to be called after backward and before the optimizer's step.

        Raises NonFiniteGradientError where the policy says `nonfinite=error`: at once on the CPU. On an
        accelerator all gradients of such a step become 0, and `raise_if_nonfinite()` raises, so that no step
        waits for the device. Raises InvalidField or ValueError if the policy or the model was changed into
        something that does not fit.
        """
        self._report = None
        self._refresh()
        gradients = self._parameters.read()
        if not gradients.indices and not self._warned:
            self._warned = True
            warnings.warn("clip() found no gradient: no parameter that the Clipper knows has one", stacklevel=3)
        mode = self.policy.nonfinite
        reads = gradients.on_host or mode == "drop"  # values on the host, which waits for an accelerator
        if mode == "zero" and not reads:
            gradients.zero_nonfinite()
        before = gradients.norms()
        total, dropped = gradients.total(before), False
        norms = before
        if mode == "error" and not reads:
            bad = self._remember_nonfinite(gradients, before)
            gradients.zero_if(bad)
            norms = before.masked_fill(bad, 0)  # a norm of 0 enters no memory
        elif mode != "keep" and reads and not math.isfinite(total.item()):  # the total is the same on all processes
            dropped = self._drops_nonfinite(gradients)
            before = norms = gradients.norms()
            total = gradients.total(before)
        outcome = _skipped(before) if dropped else self._apply(gradients, norms)
        self._seen = gradients.names, gradients.ids()
        unchanged = outcome.after is before and not gradients.partition
        self._report = ClipReport(
            before=total,
            after=total if unchanged else gradients.total(outcome.after),
            norms=outcome.norms,
            limits=outcome.limits,
            fraction=outcome.exceeded / torch.as_tensor(outcome.total, device=before.device).clamp(min=1),
            dropped=outcome.dropped,
            names=gradients.names,
            parameter_before=before,
            parameter_after=outcome.after,
        )
        return self._report

    @torch.no_grad()
    def check(self) -> None:
        """Looks at the gradients again; to be called right before the optimizer's step. Reads from the device.

        Raises NonFiniteGradientError as `raise_if_nonfinite()` does, and ClipCheckError unless every gradient is
        the tensor that the last report speaks of, with the norm that it says, and within the limits: it finds
        gradients that were clipped while still scaled for AMP, clipped before backward, added to afterwards, not
        limited by a faulty policy, or nan, unless `nonfinite=keep`. With `optimizer=` it finds gradients that the
        optimizer will use and `clip()` has not seen. It does not find a change in place that keeps the parameter's
        norm to 5e-6, such as one of sign.
        """
        self.raise_if_nonfinite()
        report = self._report
        if report is None:
            raise ClipCheckError("check() came before clip()")
        gradients = self._parameters.read()
        # Measured before anything is raised: other processes would wait for this one in the collective.
        measured, reported = gradients.norms(), report.parameter_after
        self._check_ids(gradients)
        largest = max((gradients.parameters[index].numel() for index in gradients.indices), default=1)
        same = (measured - reported).abs() <= TOLERANCE * reported + FTZ_TOLERANCE * largest**0.5
        same |= ~reported.isfinite() & ~measured.isfinite()
        if not bool(same.all()):
            index = int(torch.argmin(same.int()))
            raise ClipCheckError(
                f"{report.names[index]}: its gradient has norm {measured[index].item():.6g} before the optimizer's "
                f"step, but {reported[index].item():.6g} after clip(); between clip() and step() it was changed"
            )
        if report.dropped:
            return
        # A policy that enlarges may exceed the limits of those before it, as it was asked to.
        runners = list(self._runners.values())
        last = max((index for index, runner in enumerate(runners) if runner.policy.kind == "rescale"), default=0)
        for runner in runners[last:]:
            runner.check(gradients)

    def raise_if_nonfinite(self) -> None:
        """Raises NonFiniteGradientError if `nonfinite=error` and a gradient was non-finite since the last call.

        Reads from the device. To be called every now and then on an accelerator, where `clip()` reads no values.
        """
        pending, self._nonfinite = self._nonfinite, []
        for names, flags, step in pending:
            if bool(step > 0):
                raise NonFiniteGradientError(_chosen(names, flags), step=int(step))

    def state_dict(self) -> dict[str, Any]:
        """By the labels of a chain ("" without one): the policy's name and options, its blocks and its memory."""
        return {label: runner.state_dict() for label, runner in self._runners.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved memory; raises ValueError if another policy, other options or other blocks wrote it."""
        if state.keys() != self._runners.keys():
            raise ValueError(f"the saved memory has the links {list(state)}, and the chain {list(self._runners)}")
        parameters, runners = self._parameters.read(with_gradients=False), self._new_runners()
        for label, runner in runners.items():
            runner.load_state_dict(state[label], parameters)
        self._runners, self._report = runners, None

    def _new_runners(self) -> dict[str, PolicyRunner]:
        links = self.policy.links if isinstance(self.policy, Chain) else {"": self.policy}
        return {label: PolicyRunner(_block_policy(link), self._optimizers) for label, link in links.items()}

    def _refresh(self) -> None:
        """Follows a policy that was changed or replaced; raises InvalidField or ValueError where that cannot be."""
        if isinstance(self.policy, Chain):
            self.policy.__post_init__()  # its links check themselves below
        runners = self._new_runners()
        used, wanted = ([(label, id(r.policy)) for label, r in each.items()] for each in (self._runners, runners))
        if used != wanted:
            first = next(iter(self._runners.values()))
            for label, runner in runners.items():
                runner.policy.__post_init__()
                runner.adopt(self._runners.get(label, first))
            self._runners = runners
        for runner in self._runners.values():
            runner.refresh()

    def _apply(self, gradients: Gradients, norms: Tensor) -> Outcome:
        """What all policies did, one after the other. norms: the 2-norms of the parameters, [parameters]."""
        outcomes: list[Outcome] = []
        for runner in self._runners.values():
            outcomes.append(runner.apply(gradients, norms))
            norms = outcomes[-1].after
        return merge(outcomes)

    def _drops_nonfinite(self, gradients: Gradients) -> bool:
        """Does what the policy says where an element is not finite; returns whether the step is to be left out.

        Finite elements may have a 2-norm beyond float64: the largest element of each gradient decides.
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
        """0-d: whether a gradient is not finite. Keeps which were so first, and in which step, on the device."""
        bad = ~norms.isfinite()
        anywhere = gradients.total(bad.to(norms.dtype), math.inf) > 0
        step = anywhere * (next(iter(self._runners.values())).step + 1)
        if self._nonfinite and self._nonfinite[-1][0] == gradients.names:
            _, old_bad, old_step = self._nonfinite.pop()
            bad, step = torch.where(old_step > 0, old_bad, bad), torch.where(old_step > 0, old_step, step)
        self._nonfinite.append((gradients.names, bad, step))
        return anywhere

    def _check_ids(self, gradients: Gradients) -> None:
        names, ids = self._seen
        for name in {*names} ^ {*gradients.names}:
            raise ClipCheckError(f"{name}: the parameter was {'removed' if name in names else 'added'} after clip()")
        for name, then, now in zip(names, ids, gradients.ids(), strict=True):
            if then != now:
                raise ClipCheckError(f"{name}: its gradient was changed between clip() and step()")
        seen = set(map(id, gradients.parameters))
        for optimizer in self._optimizers:
            for number, group in enumerate(optimizer.param_groups):
                for index, parameter in enumerate(group["params"]):
                    if parameter.grad is not None and id(parameter) not in seen:
                        raise ClipCheckError(
                            f"the Clipper does not know parameter {index} of group {number} of "
                            f"{type(optimizer).__name__}, of shape {list(parameter.shape)}, which has a gradient"
                        )


def _block_policy(policy: Policy) -> BlockPolicy:
    if not isinstance(policy, BlockPolicy):
        raise TypeError(f"{type(policy).__name__}: a policy derives from LimitPolicy or BlockPolicy")
    return policy


def _chosen(names: Sequence[str], flags: Tensor) -> list[str]:
    return [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]


def _skipped(before: Tensor) -> Outcome:
    """The outcome of a step whose gradients are not finite: nothing is measured or limited."""
    empty = before.new_zeros(0)
    return Outcome(empty, empty, before.new_zeros(()), 0, before, dropped=True)
