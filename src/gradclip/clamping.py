"""Limiting single elements, in place, and counting those that exceeded their limit."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from gradclip.norms import (
    LARGE_PART,
    PART,
    buffer,
    in_order,
    index_tensor,
    is_host,
    magnitudes,
    row_norms,
    stacked,
    wide_dtype,
)


def clamp(tensors: Sequence[Tensor], bound: float, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clamps every element to [-bound, bound], in place; a nan stays.

    tensors: at least one. before: [tensors], their 2-norms. Returns three tensors, [tensors]: each one's largest
    magnitude, how many of its elements exceeded the bound, and its 2-norm after.
    """
    order: list[int] = []
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for indices, matrix in stacked(tensors):
        limit = _representable(bound, matrix.dtype)
        largest, exceeded = _clamp_rows(matrix, limit)
        if len(indices) == 1:  # a slice needs no index on the device
            after = before[indices[0] : indices[0] + 1]
        else:
            after = before[index_tensor(tuple(indices), before.device)]
        if not is_host(matrix.device) or bool(exceeded.any()):
            after = row_norms(matrix)
            if len(indices) > 1 or matrix.data_ptr() != tensors[indices[0]].data_ptr():  # the matrix is a copy
                for index in indices:
                    tensors[index].clamp_(-limit, limit)
        order += indices
        found.append((largest, exceeded, after))
    if not found:  # all are empty
        return before, before, before
    largest, exceeded, after = (
        in_order([figures.to(before) for figures in each], order, before) for each in zip(*found, strict=True)
    )
    return largest, exceeded, after


def clamp_each(tensor: Tensor, bounds: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Clamps every element to its own bound, in place; a nan stays.

    Returns three 0-d tensors: the largest magnitude, how many elements exceeded their bound, and the largest bound.
    """
    wide = wide_dtype(tensor.device)
    if not isinstance(bounds, Tensor):
        bounds = torch.full((), bounds, dtype=wide, device=tensor.device)
    sizes = tensor.abs()
    exceeded = (sizes > bounds).sum()
    tensor.copy_(clamped(tensor, bounds))
    if not tensor.numel():  # an empty shard
        return exceeded.to(wide), exceeded.to(wide), exceeded.to(wide)
    return sizes.amax().to(wide), exceeded.to(wide), bounds.amax().to(wide)


def clamped(tensor: Tensor, bounds: Tensor | float) -> Tensor:
    """A copy with every element clamped to its own bound; a nan stays."""
    limits = torch.as_tensor(bounds, dtype=tensor.dtype, device=tensor.device)
    return tensor.clamp(-limits, limits).where(~tensor.isnan(), tensor)


def _clamp_rows(matrix: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Clamps rows in parts that stay in the cache: each one's largest magnitude, and how many exceeded, [rows]."""
    on_host = is_host(matrix.device)
    parts = torch.split(matrix, PART if on_host else LARGE_PART, 1)
    room = buffer(matrix, parts[0].numel())
    largest, exceeded = [], []
    for part in parts:
        sizes = magnitudes(part, room)
        largest.append(sizes.amax(1))
        if not (on_host and largest[-1].amax().item() <= bound):  # a nan is not, either
            exceeded.append(sizes.gt_(bound).sum(1))
            part.clamp_(-bound, bound)
    most = torch.stack(largest).amax(0)
    return most, torch.stack(exceeded).sum(0) if exceeded else torch.zeros_like(most)


@lru_cache
def _representable(bound: float, dtype: torch.dtype) -> float:
    """The bound as the type rounds it, so that what was clamped does not exceed it; inf where no number exceeds it."""
    return torch.tensor(bound, dtype=dtype, device="cpu").item() if bound < torch.finfo(dtype).max else math.inf
