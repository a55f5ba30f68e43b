"""Clamps elements in place, and counts those that exceeded their bound."""

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

    tensors: at least one. before: [tensors], their 2-norms. Returns three tensors, [tensors]: each tensor's largest
    magnitude, the number of its elements that exceeded the bound, and its 2-norm after.
    """
    order: list[int] = []
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for indices, matrix in stacked(tensors):
        limit = _representable(bound, matrix.dtype)
        largest, exceeded = _clamp_rows(matrix, limit)
        if len(indices) == 1:  # a slice needs no index tensor
            after = before[indices[0] : indices[0] + 1]
        else:
            after = before[index_tensor(tuple(indices), before.device)]
        if not is_host(matrix.device) or bool(exceeded.any()):
            after = row_norms(matrix)
            if len(indices) > 1 or matrix.data_ptr() != tensors[indices[0]].data_ptr():  # the matrix is a copy
                for index in indices:
                    tensors[index].clamp_(-limit, limit)
        order += indices
        parts.append((largest, exceeded, after))
    if not parts:  # all tensors are empty
        return before, before, before
    largest, exceeded, after = (
        in_order([part.to(before) for part in column], order, before) for column in zip(*parts, strict=True)
    )
    return largest, exceeded, after


def clamp_each(tensor: Tensor, bounds: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Clamps every element to its own bound, in place; a nan stays.

    Returns three 0-d tensors: the largest magnitude, the number of elements above their bound, and the largest bound.
    """
    wide = wide_dtype(tensor.device)
    if not isinstance(bounds, Tensor):
        bounds = torch.full((), bounds, dtype=wide, device=tensor.device)
    absolute = tensor.abs()
    exceeded = (absolute > bounds).sum()
    tensor.copy_(clamped(tensor, bounds))
    if not tensor.numel():  # an empty shard
        return exceeded.to(wide), exceeded.to(wide), exceeded.to(wide)
    return absolute.amax().to(wide), exceeded.to(wide), bounds.amax().to(wide)


def clamped(tensor: Tensor, bounds: Tensor | float) -> Tensor:
    """A copy with every element clamped to its own bound; a nan stays."""
    limits = torch.as_tensor(bounds, dtype=tensor.dtype, device=tensor.device)
    return tensor.clamp(-limits, limits).where(~tensor.isnan(), tensor)


def _clamp_rows(matrix: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Clamps rows, in parts that stay in the cache; each row's largest magnitude, and number exceeded, [rows]."""
    on_host = is_host(matrix.device)
    parts = torch.split(matrix, PART if on_host else LARGE_PART, 1)
    scratch = buffer(matrix, parts[0].numel())
    largest, exceeded = [], []
    for part in parts:
        absolute = magnitudes(part, scratch)
        largest.append(absolute.amax(1))
        if not (on_host and largest[-1].amax().item() <= bound):  # a nan compares false, too
            exceeded.append(absolute.gt_(bound).sum(1))
            part.clamp_(-bound, bound)
    row_largest = torch.stack(largest).amax(0)
    return row_largest, torch.stack(exceeded).sum(0) if exceeded else torch.zeros_like(row_largest)


@lru_cache
def _representable(bound: float, dtype: torch.dtype) -> float:
    """The bound rounded to the type, so that clamped elements do not exceed it; inf beyond the type's range."""
    return torch.tensor(bound, dtype=dtype, device="cpu").item() if bound < torch.finfo(dtype).max else math.inf
