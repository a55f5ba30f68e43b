"""Clamping elements to their bounds, in place, while counting those that exceeded them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradclip import foreach
from gradclip.norms import Plan, flat_view, pieces_of, row_norms

IN_CACHE = 1 << 17  # elements: what the next operation still finds in a core's cache


class Clamped(NamedTuple):
    """What was found in one gradient: its largest magnitude, how many elements exceeded the bound, the 2-norm after.

    after: None where nothing exceeded.
    """

    largest: float
    exceeded: int
    after: float | None


def clamp_to(gradient: Tensor, bound: Tensor | float) -> Tensor:
    """Clamps every element to its bound; 0-d, how many exceeded it. A nan stays."""
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


def clamp_on_host(gradients: Sequence[Tensor], bound: float, plan: Plan) -> list[Clamped]:
    """Clamps every element of gradients on the CPU to one bound.

    A long gradient goes through the cache once, in parts that all operations meet there; small ones of one
    shape are looked at together.
    """
    found: list[Clamped] = [Clamped(0.0, 0, None)] * len(gradients)
    for group in plan.groups:
        chosen = [gradients[place] for place in group]
        dtype = chosen[0].dtype
        finite = torch.tensor(bound, dtype=dtype).item() if bound < torch.finfo(dtype).max else math.inf
        clamped = _clamp_equals(chosen, finite) if len(group) > 1 else [_clamp_one(chosen[0], finite)]
        for place, one in zip(group, clamped, strict=True):
            found[place] = one
    return found


def _clamp_one(gradient: Tensor, bound: float) -> Clamped:
    flat = flat_view(gradient)
    if gradient.dtype not in (torch.float32, torch.float64) or flat.data_ptr() != gradient.data_ptr():
        return _clamp_equals([gradient], bound)[0]
    room = torch.empty(min(len(flat), IN_CACHE), dtype=flat.dtype)
    parts = torch.split(flat, IN_CACHE)
    largest, exceeded, norms, untouched = [], 0, [], []
    for part in parts:
        sizes = torch.abs(part, out=room[: len(part)])
        largest.append(sizes.amax().item())
        if largest[-1] <= bound:
            untouched.append(part)
            continue
        exceeded += int(sizes.gt_(bound).sum().item())
        part.clamp_(-bound, bound)
        norms.append(pieces_of(part.unsqueeze(0)))
    if not norms:
        return Clamped(max(largest), 0, None)
    norms += [pieces_of(part.unsqueeze(0)) for part in untouched]
    after = row_norms(flat.unsqueeze(0), 2.0, pieces=torch.cat(norms, 1)).item()
    return Clamped(math.nan if any(map(math.isnan, largest)) else max(largest), exceeded, after)


def _clamp_equals(gradients: list[Tensor], bound: float) -> list[Clamped]:
    """Gradients of one shape and dtype, as the rows of one matrix."""
    rows = torch.stack(gradients).reshape(len(gradients), -1)  # stack keeps channels_last
    sizes = rows.abs() if rows.dtype.itemsize >= 4 else rows.float().abs_()
    largest = sizes.amax(1).tolist()
    over = [number for number, size in enumerate(largest) if not size <= bound]
    if not over:
        return [Clamped(size, 0, None) for size in largest]
    exceeded = map(int, sizes.gt_(bound).sum(1).tolist())
    rows.clamp_(-bound, bound)
    after = row_norms(rows, 2.0).tolist()
    foreach.copy([gradients[number] for number in over], [rows[number].view_as(gradients[number]) for number in over])
    return [
        Clamped(size, count, None if size <= bound else norm)
        for size, count, norm in zip(largest, exceeded, after, strict=True)
    ]
