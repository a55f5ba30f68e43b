"""torch's four clipping functions, with torch's signatures, accurate norms and clear errors. Replace one import:

from gradclip import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.clipper import Clipper
from gradclip.distributed import is_dtensor, without_partial_sums
from gradclip.errors import InvalidField
from gradclip.gradients import Gradients, Parameters
from gradclip.norms import wide_dtype
from gradclip.policies import ClipByNorm, ClipByValue
from gradclip.scopes import make_blocks


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    process_group: Any = None,
) -> Tensor:
    """Scales all gradients by one factor so that their norm is at most `max_norm`, in place; returns the norm before.

    parameters: one tensor or several; one without a gradient is skipped, one given twice counts once.
    max_norm: at least 0. norm_type: at least 0.1, or inf. foreach: ignored.
    process_group: one or several, whose processes hold different parameters: the norm is that of all of them.
    Returns a 0-d tensor, in float64 where the device has it, since the norm of finite float32 gradients may exceed
    float32. Raises InvalidField for a max_norm that is negative or nan (torch flips the gradients' sign, or makes them
    nan), RuntimeError if `error_if_nonfinite` and the norm is not finite.
    """
    named = _named(parameters)
    if not named:
        return torch.zeros(())
    limit = _threshold("max_norm", max_norm) or math.inf  # a policy refuses a limit of 0
    mode = "drop" if error_if_nonfinite else "keep"
    report = Clipper(
        named, ClipByNorm(max=limit, norm_type=float(norm_type), nonfinite=mode), process_group=process_group
    ).clip()
    if report.dropped:
        raise _nonfinite_norm(norm_type)
    if max_norm == 0:
        _zero_gradients(named)
    return report.norms[0]


@torch.no_grad()
def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None, *, process_group: Any = None
) -> None:
    """Clamps every element of every gradient to [-clip_value, clip_value], in place.

    clip_value: at least 0. foreach, process_group: ignored. Gradients may be sparse, or missing from all parameters.
    Raises InvalidField for a clip_value that is negative or nan.
    """
    clip_value = _threshold("clip_value", clip_value)
    named = _named(parameters)
    if clip_value == 0:
        for tensor in Parameters(named).read().tensors if named else ():
            if tensor is not None:
                tensor.clamp_(0, 0)  # an infinite element becomes 0, as in torch
    elif named:
        Clipper(named, ClipByValue(max=clip_value, nonfinite="keep")).clip()


@torch.no_grad()
def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    process_group: Any = None,
) -> Tensor:
    """The norm of all tensors together, as if they were one vector: a 0-d tensor, in float64 where the device has it.

    tensors: one or several, usually gradients; a DTensor counts with all its shards, a tensor given twice counts twice.
    norm_type: at least 0.1, or inf. foreach: ignored. process_group: one or several, whose processes hold different
    tensors. Raises InvalidField for another norm_type, RuntimeError if `error_if_nonfinite` and the norm is not finite.
    """
    norm_type = ClipByNorm(max=1.0, norm_type=float(norm_type)).norm_type
    gradients = _as_gradients([tensors] if isinstance(tensors, Tensor) else tensors, process_group)
    if gradients is None:
        return torch.zeros(())
    total = gradients.total(gradients.norms(norm_type), norm_type)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise _nonfinite_norm(norm_type)
    return total


@torch.no_grad()
def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor | float, foreach: bool | None = None
) -> None:
    """Scales all gradients by min(1, max_norm / total_norm), in place.

    parameters: one tensor or several; one without a gradient is skipped, one given twice is scaled once.
    max_norm: at least 0. total_norm: what `get_total_norm` returned, 0-d; it is not read from its device, and a nan
    makes all gradients nan. foreach: ignored. Raises InvalidField for a max_norm that is negative or nan.
    """
    max_norm = _threshold("max_norm", max_norm)
    named = _named(parameters)
    if not named:
        return
    gradients = Parameters(named).read()
    total: Any = torch.as_tensor(total_norm)
    if is_dtensor(total):  # torch's get_total_norm of sharded gradients returns one
        total = total.full_tensor()
    total = total.to(gradients.device, wide_dtype(gradients.device))
    scale = torch.where(total <= max_norm, 1.0, max_norm / total)
    make_blocks("model", gradients, tuple(range(len(named))), ()).multiply(gradients, scale.view(1))


def _as_gradients(tensors: Iterable[Tensor], process_group: Any) -> Gradients | None:
    """The tensors as the gradients of parameters that have no other use; None without tensors."""
    named = []
    for number, tensor in enumerate(tensors):
        whole = without_partial_sums(tensor.detach())
        parameter = Parameter(whole, requires_grad=False)
        parameter.grad = whole
        named.append((str(number), parameter))
    return Parameters(named, process_group).read() if named else None


def _nonfinite_norm(norm_type: float) -> RuntimeError:
    return RuntimeError(f"the total norm of order {norm_type} of the gradients is not finite, so nothing was clipped")


def _zero_gradients(named: list[tuple[str, Parameter]]) -> None:
    for _, parameter in named:
        if parameter.grad is not None:
            parameter.grad.mul_(0)


def _named(parameters: Tensor | Iterable[Tensor]) -> list[tuple[str, Parameter]]:
    if isinstance(parameters, torch.nn.Module):
        raise TypeError("parameters must be tensors: pass model.parameters(), not the model")
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not listed and isinstance(parameters, Iterator):
        warnings.warn(
            "the iterator gives no parameters, and nothing is clipped: it can be read only once", stacklevel=4
        )
    for parameter in listed:
        if not isinstance(parameter, Tensor):
            raise TypeError(
                f"parameters must be tensors, such as model.parameters(), and one is a {type(parameter).__name__}"
            )
    return [(str(number), parameter) for number, parameter in enumerate(listed)]  # type: ignore[misc]


def _threshold(name: str, value: float) -> float:
    number = float(value)
    if not number >= 0:
        raise InvalidField(name, value, "a number of at least 0")
    return number
