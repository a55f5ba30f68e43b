"""Clipper and ClipReport: both norms around one policy, or around a chain of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.errors import ClipCheckError, NonFiniteGradientError
from gradclip.gradients import Gradients, Norms, Parameters
from gradclip.link import FLUSHED, TOLERANCE, Link, Outcome, joined
from gradclip.norms import wide_dtype
from gradclip.policies import Chain, Policy

if TYPE_CHECKING:
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

    named_parameters: `model.named_parameters()`; those without a gradient, unused or frozen, are left
        alone, and a tied one counts once.
    policy: one of `Policy.options`.
    optimizer: needed for the scope `group`.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        policy: Policy,
        *,
        optimizer: Optimizer | None = None,
    ):
        self._parameters = Parameters(named_parameters)
        chosen = policy.links if isinstance(policy, Chain) else {"": policy}
        self._links = {label: Link(link, self._parameters, optimizer) for label, link in chosen.items()}
        self._nonfinite_seen: Tensor | None = None
        self._report: ClipReport | None = None
        self._gradient_ids: list[int] = []
        self.policy = policy

    @torch.no_grad()
    def clip(self) -> ClipReport:
        """Limits the gradients as the policy says; to be called after backward and before the optimizer's step.

        Raises NonFiniteGradientError where the policy says `nonfinite=error`: at once on the CPU, on
        an accelerator when `raise_if_nonfinite()` is called, so that no step waits for the device.
        """
        gradients = self._parameters.gradients()
        before, drop = self._meet_nonfinite(gradients)
        if drop:
            return self._left_out(before)
        after, outcomes = before, []
        for link in self._links.values():
            outcomes.append(link.apply(gradients, after))
            told = outcomes[-1].after
            after = self._parameters.measure(gradients) if told is None else told
        self._gradient_ids = self._parameters.gradient_ids()
        self._report = self._reported(before, after, joined(outcomes))
        return self._report

    @torch.no_grad()
    def check(self) -> None:
        """Looks at the gradients again; to be called right before the optimizer's step. Reads from the device.

        Raises ClipCheckError unless every gradient is the tensor that the last report speaks of, with
        the norm that it says, and within the limits: it finds gradients that were clipped while still
        scaled for AMP, clipped before backward, added to afterwards, or not limited by a faulty policy.
        It does not find a change in place that keeps the parameter's norm to 5e-6, such as a change of sign.
        """
        if self._report is None:
            raise ClipCheckError("check() came before clip()")
        told, names = self._report.parameter_after, self._parameters.names
        gradients = self._parameters.gradients()
        now = self._parameters.norms(gradients)
        largest = max((gradient.numel() for gradient in gradients.values()), default=1)
        same = (now - told).abs() <= TOLERANCE * told + FLUSHED * largest**0.5
        same |= ~told.isfinite() & ~now.isfinite()
        if not bool(same.all()):
            place = int(torch.argmin(same.int()))
            raise ClipCheckError(
                f"{names[place]}: its gradient has norm {now[place].item():.6g} at the optimizer's door, "
                f"but {told[place].item():.6g} after clip(); between clip() and step() it was changed"
            )
        if self._gradient_ids != (ids := self._parameters.gradient_ids()):
            place = next(i for i, pair in enumerate(zip(self._gradient_ids, ids, strict=True)) if pair[0] != pair[1])
            raise ClipCheckError(f"{names[place]}: its gradient was changed between clip() and step()")
        if not self._report.dropped:
            # A link that enlarges may lead out of the limits of those before it, as it was asked to.
            links = list(self._links.values())
            last = max((place for place, link in enumerate(links) if link.policy.kind == "rescale"), default=0)
            for link in links[last:]:
                link.check(gradients)

    def raise_if_nonfinite(self) -> None:
        """Raises NonFiniteGradientError if `nonfinite=error` and a gradient was non-finite. Reads from the device."""
        if self._nonfinite_seen is not None and bool(self._nonfinite_seen.any()):
            raise NonFiniteGradientError(self._named(self._nonfinite_seen))

    def state_dict(self) -> dict[str, Any]:
        """By the labels of the links ("" without a chain): the policy's name, its blocks and its memory."""
        return {label: link.state_dict() for label, link in self._links.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved memory; raises ValueError if another policy, or other blocks, wrote it."""
        device = self._parameters.device
        if state.keys() != self._links.keys():
            raise ValueError(f"the saved memory has the links {list(state)}, and the chain {list(self._links)}")
        for label, link in self._links.items():
            link.load_state_dict(state[label], device, wide_dtype(device))

    def _meet_nonfinite(self, gradients: Gradients) -> tuple[Norms, bool]:
        """The norms after what the policy says on nan and inf, and whether the step is to be left out."""
        mode, may_look = self.policy.nonfinite, self._parameters.may_look
        if mode == "zero" and not may_look:
            _zero_nonfinite(gradients)
        norms = self._parameters.measure(gradients)
        if mode == "keep" or (mode == "zero" and not may_look):
            return norms, False
        if may_look and math.isfinite(norms.listed_total):
            return norms, False
        finite = norms.each.isfinite()
        if mode == "error" and not may_look:
            # The first bad step is kept: once the weights are bad, every name would be.
            seen = self._nonfinite_seen
            self._nonfinite_seen = ~finite if seen is None else torch.where(seen.any(), seen, ~finite)
            return norms, False
        if bool(finite.all()):
            return norms, False
        if mode == "error":
            raise NonFiniteGradientError(self._named(~finite))
        if mode == "zero":
            _zero_nonfinite(gradients)
            return self._parameters.measure(gradients), False
        return norms, True

    def _named(self, chosen: Tensor) -> list[str]:
        return [name for name, named in zip(self._parameters.names, chosen.tolist(), strict=True) if named]

    def _left_out(self, before: Norms) -> ClipReport:
        """The report of a step whose gradients were not finite: nothing was measured or limited."""
        empty = before.each.new_zeros(0)
        nothing = Outcome(empty, empty, before.each.new_zeros(()), 0, before, dropped=True)
        self._gradient_ids = self._parameters.gradient_ids()
        self._report = self._reported(before, before, nothing)
        return self._report

    def _reported(self, before: Norms, after: Norms, outcome: Outcome) -> ClipReport:
        share = outcome.exceeded / max(outcome.total, 1)
        return ClipReport(
            before=before.total,
            after=after.total,
            norms=outcome.norms,
            limits=outcome.limits,
            fraction=torch.as_tensor(share, dtype=before.each.dtype, device=before.each.device),
            dropped=outcome.dropped,
            names=self._parameters.names,
            parameter_before=before.each,
            parameter_after=after.each,
        )


def _zero_nonfinite(gradients: Gradients) -> None:
    for gradient in gradients.values():
        gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
