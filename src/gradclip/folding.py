"""Folding: a fused optimizer multiplies the gradients by the policy's scale while it reads them anyway.

torch's fused optimizers divide every gradient by `optimizer.grad_scale`, which is there for AMP's loss
scaling, and store what they find. Handing them the inverse of the policy's scale saves the pass that
would have multiplied the gradients; it is right only where there is one scale, for exactly the
optimizer's parameters, and where those kernels compute in the gradients' own type.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from gradclip.gradients import Gradients, Parameters
from gradclip.policies import Policy

log = logging.getLogger(__name__)

FUSED = (SGD, Adam, AdamW, Adagrad)  # those that read `grad_scale`; a wrapper around one may not pass it on
LEAST = 1e-30  # a smaller scale, or a larger one than its inverse, is too near the end of float32


def make_folding(policy: Policy, parameters: Parameters, optimizer: Optimizer | None) -> Folding | None:
    """None where the policy does not ask for it, or, with a warning, where it would not be right."""
    if policy.fold == "never":
        return None
    if why := _one_scale(policy) or _fused(optimizer, parameters):
        _refuse(why)
        return None
    assert optimizer is not None
    return Folding(parameters, optimizer)


class Folding:
    """Hands one scale for all gradients to a fused optimizer, for its next step alone."""

    def __init__(self, parameters: Parameters, optimizer: Optimizer):
        self._parameters, self._told, self._missed = parameters, False, False
        self._optimizer: Any = optimizer
        self._watch()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()  # a copied optimizer has no hooks

    def _watch(self) -> None:
        self._optimizer.register_step_post_hook(lambda *_: self.clear())

    def take(self, gradients: Gradients, scale: Tensor | float) -> bool:
        """Whether the optimizer's next step will multiply by the scale, 0-d; if not, the caller has to."""
        if self._missed:
            return False
        if isinstance(scale, float):
            if scale != 0.0 and not LEAST < scale < 1 / LEAST:
                return False
            scale = torch.tensor(scale, dtype=torch.float64)
        if why := _fused(self._optimizer, self._parameters) or self._differs(gradients):
            if not self._told:
                _refuse(why)
            self._told = True
            return False
        self._optimizer.grad_scale = (1 / scale).to(torch.float32)
        return True

    def clear(self) -> None:
        """Nothing is handed over any more: after the step, or before another clip()."""
        if getattr(self._optimizer, "grad_scale", None) is None:
            return
        if hasattr(self._optimizer, "found_inf"):  # inside GradScaler.step, which deletes both when it is done
            self._optimizer.grad_scale = None
        else:
            del self._optimizer.grad_scale

    def begin(self) -> None:
        """Before another clip(): what was handed over has been used, or nothing is handed over any more."""
        if getattr(self._optimizer, "grad_scale", None) is not None:
            self._missed = True
            _refuse("no step of the optimizer that the Clipper was given has used the last scale")
        self.clear()

    def pending(self) -> Tensor | float:
        """What the next step multiplies the gradients by, 0-d: as the optimizer will read it, not as it was said."""
        given: Tensor | None = getattr(self._optimizer, "grad_scale", None)
        return 1.0 if given is None else 1 / given

    def _differs(self, gradients: Gradients) -> str | None:
        """Why torch's fused kernels would compute something else for these gradients."""
        for place, gradient in gradients.items():
            parameter = self._parameters.all[place]
            if gradient.dtype != torch.float32 or parameter.dtype != torch.float32:
                return f"{self._parameters.names[place]} or its gradient is not float32"
            if parameter.grad is None or parameter.grad.is_sparse or gradient.stride() != parameter.stride():
                return f"the gradient of {self._parameters.names[place]} lies otherwise in memory than its parameter"
        return None


def _refuse(why: str) -> None:
    log.warning("clip.fold=auto: clip() multiplies the gradients itself, since %s", why)


def _one_scale(policy: Policy) -> str | None:
    """Why a policy has more than one scale for all gradients."""
    if policy.kind not in ("limit", "rescale"):
        return f"clip={policy.name} has no scale of all gradients"
    if policy.scope != "model" or policy.include or policy.exclude:
        return "one scale for all needs scope=model, without include and exclude"
    return None


def _fused(optimizer: Any, parameters: Parameters) -> str | None:
    """Why an optimizer would not scale these parameters, and no others, while it steps."""
    if type(optimizer) not in FUSED or not all(group.get("fused") for group in optimizer.param_groups):
        return "the optimizer is not one of torch's with fused=True"
    if not all(device == parameters.device for device in {parameter.device for parameter in parameters}):
        return "the parameters are on several devices"
    if any(parameters.cuts):
        return "the parameters lie in pieces on several processes"
    if {id(p) for group in optimizer.param_groups for p in group["params"]} != {id(p) for p in parameters}:
        return "the optimizer has other parameters than the Clipper"
    return None
