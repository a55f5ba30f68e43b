"""Measure, limit, scale: the part of clipping that all policies share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.blocks import Blocks, unique_parameters
from gradclip.errors import ClipCheckError, NonFiniteGradientError
from gradclip.norms import combine, tensor_norms, wide_dtype
from gradclip.policies import ElementwisePolicy, Measured, Memory, Policy

if TYPE_CHECKING:
    from torch.optim import Optimizer

FLUSHED = 1.2e-38  # what a float32 unit that flushes to zero may lose of an element
CHECK_TOLERANCE = 1e-6  # of a norm, beside the rounding of the gradient's own dtype


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


def multiply(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiplies tensors of one type by a 0-d factor, in place.

    A factor rounded to half precision would be off by up to 0.4 %, so there it stays in float32: as a
    tensor of one dimension it takes part in type promotion.
    """
    if gradients[0].dtype == factor.dtype:
        torch._foreach_mul_(gradients, factor)
        return
    for gradient in gradients:
        (gradient if gradient.dim() else gradient.view(1)).mul_(factor.view(1))


class Clipper:
    """Clips the gradients of a model in place, and reports their norms before and after.

    named_parameters: `model.named_parameters()`; frozen parameters and those without a gradient are
        left alone, a tied one counts once.
    policy: one of `Policy.options`.
    optimizer: needed for the scope `group` only.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        policy: Policy,
        *,
        optimizer: Optimizer | None = None,
    ):
        names, self._parameters = unique_parameters(named_parameters)
        self._names = tuple(names)
        self._blocks = Blocks(names, self._parameters, policy)
        self._selected = self._blocks.selected
        self._device = self._parameters[0].device
        # Looking at a value costs nothing on the CPU; on an accelerator it would stop the queue.
        self._may_look = all(parameter.device.type == "cpu" for parameter in self._parameters)
        self._nonfinite_seen: Tensor | None = None
        self._memory: Memory = {}
        self._report: ClipReport | None = None
        self.policy = policy

    @torch.no_grad()
    def clip(self) -> ClipReport:
        """Limits the gradients as the policy says; to be called after backward and before the optimizer's step.

        Raises NonFiniteGradientError where the policy says `nonfinite=error`: at once on the CPU, on
        an accelerator when `raise_if_nonfinite()` is called, so that no step waits for the device.
        """
        before = self._norms(2.0)
        if self.policy.nonfinite != "keep":
            before, drop = self._meet_nonfinite(before)
            if drop:
                return self._remember(before, before, *self._unlimited(), dropped=True)
        if isinstance(self.policy, ElementwisePolicy):
            norms, limits, fraction, changed = self._clamp(self.policy)
            after = self._norms(2.0) if changed else before
        else:
            norms, limits, fraction, after = self._scale(before)
        return self._remember(before, after, norms, limits, fraction)

    @torch.no_grad()
    def check(self) -> None:
        """Measures the gradients again; to be called right before the optimizer's step. Reads from the device.

        Raises ClipCheckError unless every gradient is what the last report says it is, and within the
        limits: it finds gradients that were clipped while still scaled for AMP, clipped before
        backward, added to afterwards, or not limited by a faulty policy.
        """
        if self._report is None:
            raise ClipCheckError("check() came before clip()")
        report, slack = self._report, self._slack()
        now = self._norms(2.0)
        same = (now - report.parameter_after).abs() <= slack * report.parameter_after.abs() + self._smallest()
        same |= ~report.parameter_after.isfinite() & ~now.isfinite()
        if not bool(same.all()):
            place = int(torch.argmin(same.int()))
            raise ClipCheckError(
                f"{self._names[place]}: its gradient has norm {now[place].item():.6g} at the optimizer's door, but "
                f"{report.parameter_after[place].item():.6g} after clip(); between clip() and step() it was changed"
            )
        if not report.dropped:
            self._check_limits(report, slack)

    def raise_if_nonfinite(self) -> None:
        """Raises NonFiniteGradientError if `nonfinite=error` and a gradient was non-finite. Reads from the device."""
        if self._nonfinite_seen is not None and bool(self._nonfinite_seen.any()):
            raise NonFiniteGradientError(self._named(self._nonfinite_seen))

    def state_dict(self) -> dict[str, Any]:
        """The policy's name and its memory; empty for policies without one."""
        return {"policy": self.policy.name, "memory": dict(self._memory)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved memory; raises ValueError if another policy wrote it."""
        if state["policy"] != self.policy.name:
            raise ValueError(f"the saved memory belongs to {state['policy']!r}, not to {self.policy.name!r}")
        self._memory = {name: tensor.to(self._device) for name, tensor in state["memory"].items()}

    # -- measuring

    def _norms(self, p: float) -> Tensor:
        """[parameters]: the p-norm of every gradient, 0 where there is none."""
        present = [place for place, parameter in enumerate(self._parameters) if parameter.grad is not None]
        if not present:
            return torch.zeros(len(self._parameters), dtype=wide_dtype(self._device), device=self._device)
        norms = tensor_norms([self._gradient(place) for place in present], p).to(self._device)
        if len(present) == len(self._parameters):
            return norms
        places = torch.tensor(present, device=self._device)
        return norms.new_zeros(len(self._parameters)).index_copy(0, places, norms)

    def _gradient(self, place: int) -> Tensor:
        gradient = self._parameters[place].grad
        assert gradient is not None
        return gradient

    def _present(self) -> list[int]:
        return [place for place in self._selected if self._parameters[place].grad is not None]

    def _meet_nonfinite(self, norms: Tensor) -> tuple[Tensor, bool]:
        """The norms after what the policy says on nan and inf, and whether the step is to be left out."""
        mode = self.policy.nonfinite
        finite = norms.isfinite()
        if mode == "error" and not self._may_look:
            # The first bad step is kept: once the weights are bad, every name would be.
            seen = self._nonfinite_seen
            self._nonfinite_seen = ~finite if seen is None else torch.where(seen.any(), seen, ~finite)
            return norms, False
        if mode == "zero" and not self._may_look:
            return self._zero_nonfinite(), False
        if bool(finite.all()):
            return norms, False
        if mode == "error":
            raise NonFiniteGradientError(self._named(~finite))
        return (self._zero_nonfinite(), False) if mode == "zero" else (norms, True)

    def _zero_nonfinite(self) -> Tensor:
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        return self._norms(2.0)

    def _named(self, places: Tensor) -> list[str]:
        return [name for name, named in zip(self._names, places.tolist(), strict=True) if named]

    # -- limiting

    def _scale(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scales every block down to its limit: norms, limits, fraction, and the 2-norms after, [parameters]."""
        p = self.policy.norm_type
        norms = self._block_norms(before, p)
        measured = Measured(norms, self._blocks.sizes, combine(norms, p))
        limits, self._memory = self.policy.limits(measured, self._memory)
        exceeds = ~(norms <= limits)  # a nan norm counts, and makes its block nan as torch does
        scales = torch.where(exceeds, limits / norms, 1.0)
        fraction = exceeds.to(norms.dtype).mean()
        if self._may_look and not bool(exceeds.any()):
            return norms, limits, fraction, before
        each = self._blocks.spread(scales)
        self._multiply(scales)
        if any(self._gradient(place).dtype.itemsize < 4 for place in self._present()):
            return norms, limits, fraction, self._norms(2.0)  # half precision rounds: measured, not computed
        after = before.clone()
        after[self._selected] *= each
        return norms, limits, fraction, after

    def _block_norms(self, before: Tensor, p: float) -> Tensor:
        each = before if p == 2.0 else self._norms(p)
        everything = len(self._selected) == len(self._parameters)
        return self._blocks.norms(each if everything else each[self._selected], p)

    def _multiply(self, scales: Tensor) -> None:
        """Multiplies every selected gradient by the scale of its block, in place."""
        scale = scales[0]
        factors = [scale]
        if self._may_look and 0.0 < scale.item() < torch.finfo(torch.float32).tiny:
            factors = [scale.sqrt(), scale.sqrt()]  # as one float32 factor it would have lost its digits
        by_type: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for place in self._present():
            gradient = self._gradient(place)
            by_type.setdefault((gradient.device, gradient.dtype), []).append(gradient)
        for (device, dtype), gradients in by_type.items():
            for factor in factors:
                multiply(gradients, factor.to(device, torch.promote_types(dtype, torch.float32)))

    def _clamp(self, policy: ElementwisePolicy) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Clamps every element to its bound: norms, limits, fraction, and whether anything may have changed."""
        norms = self._norms(math.inf)
        limits = torch.full_like(norms, math.inf)
        over = torch.zeros((), dtype=norms.dtype, device=self._device)
        elements, changed = 0, False
        for place in self._present():
            gradient = self._gradient(place)
            bound, _ = policy.bounds(gradient, self._memory)
            limits[place] = bound if isinstance(bound, float) else bound.amax()
            elements += gradient.numel()
            if self._may_look and norms[place] <= limits[place] and isinstance(bound, float):
                continue
            changed = True
            over += (gradient.abs() > bound).sum().to(self._device)
            gradient.clamp_(-bound, bound)  # type: ignore[arg-type]  # a number or a tensor, both alike
        selected = torch.tensor(self._selected, device=self._device)
        return norms[selected], limits[selected], over / max(elements, 1), changed

    def _unlimited(self) -> tuple[Tensor, Tensor, Tensor]:
        """Norms, limits and fraction of a step that is left out."""
        norms = torch.full((1,), math.nan, dtype=wide_dtype(self._device), device=self._device)
        return norms, torch.full_like(norms, math.inf), norms.new_zeros(())

    # -- reporting

    def _remember(
        self,
        before: Tensor,
        after: Tensor,
        norms: Tensor,
        limits: Tensor,
        fraction: Tensor,
        dropped: bool = False,
    ) -> ClipReport:
        self._report = ClipReport(
            before=combine(before, 2.0),
            after=combine(after, 2.0),
            norms=norms,
            limits=limits,
            fraction=fraction,
            dropped=dropped,
            names=self._names,
            parameter_before=before,
            parameter_after=after,
        )
        return self._report

    def _check_limits(self, report: ClipReport, slack: float) -> None:
        if isinstance(self.policy, ElementwisePolicy):
            now = self._norms(math.inf)[torch.tensor(self._selected, device=self._device)]
        else:
            p = self.policy.norm_type
            now = self._block_norms(self._norms(p), p)
        within = now <= report.limits * (1 + slack) + self._smallest()
        within |= ~now.isfinite() & ~report.norms.isfinite()  # passed on knowingly, by nonfinite=keep
        if not bool(within.all()):
            block = int(torch.argmin(within.int()))
            raise ClipCheckError(
                f"clip={self.policy.name} left a norm of {now[block].item():.6g} where its limit is "
                f"{report.limits[block].item():.6g}"
            )

    def _slack(self) -> float:
        """The relative difference that rounding may make: a few eps of the coarsest gradient."""
        coarsest = max((torch.finfo(self._gradient(place).dtype).eps for place in self._present()), default=0.0)
        return CHECK_TOLERANCE + coarsest

    def _smallest(self) -> float:
        """The absolute difference that underflow may make: for each element the smallest number of its type."""
        present = [self._gradient(place) for place in self._present()]
        smallest = max((torch.finfo(g.dtype).tiny * torch.finfo(g.dtype).eps for g in present), default=0.0)
        count = sum(gradient.numel() for gradient in present)
        return math.sqrt(count) * max(smallest, FLUSHED)
