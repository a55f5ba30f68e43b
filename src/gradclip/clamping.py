"""Clamps elements in place, and counts those at their bound."""

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
    magnitude before, whether that reached the bound, and its 2-norm after.
    """
    order: list[int] = []
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for indices, matrix in stacked(tensors):
        limit = _representable(bound, matrix.dtype)
        largest = _clamp_rows(matrix, limit)
        reached = largest >= limit if limit < math.inf else torch.zeros_like(largest, dtype=torch.bool)
        if len(indices) == 1:  # a slice needs no index tensor
            after = before[indices[0] : indices[0] + 1]
        else:
            after = before[index_tensor(tuple(indices), before.device)]
        if not is_host(matrix.device) or bool((largest > limit).any()):
            after = row_norms(matrix)
            if len(indices) > 1 or matrix.data_ptr() != tensors[indices[0]].data_ptr():  # the matrix is a copy
                for index in indices:
                    tensors[index].clamp_(-limit, limit)
        order += indices
        parts.append((largest, reached, after))
    if not parts:  # all tensors are empty
        return before, before != before, before
    largest, reached, after = (
        in_order([part.to(before) for part in column], order, before) for column in zip(*parts, strict=True)
    )
    return largest, reached > 0, after


def count_at_bound(tensors: Sequence[Tensor], bound: float, like: Tensor) -> Tensor:
    """The number of elements of each tensor whose magnitude is at least the bound, [tensors]; 0 for a bound of inf.

    like: a tensor of the result's device and type.
    """
    counts = like.new_zeros(len(tensors))
    for indices, matrix in stacked(tensors):
        limit = _representable(bound, matrix.dtype)
        if limit == math.inf:
            continue
        parts = _parts(matrix)
        scratch = buffer(matrix, parts[0].numel())
        rows = torch.stack([magnitudes(part, scratch).ge_(limit).sum(1) for part in parts]).sum(0)
        counts = counts.index_copy(0, index_tensor(tuple(indices), counts.device), rows.to(counts))
    return counts


def clamp_each(tensor: Tensor, bounds: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Clamps every element to its own bound, in place; a nan stays.

    Returns three 0-d tensors: the largest magnitude before, the number of elements at their bound or above it, and the
    largest bound.
    """
    wide = wide_dtype(tensor.device)
    if not isinstance(bounds, Tensor):
        bounds = torch.full((), bounds, dtype=wide, device=tensor.device)
    absolute = tensor.abs()
    reached = ((absolute >= bounds) & (bounds < math.inf)).sum()
    tensor.copy_(clamped(tensor, bounds))
    if not tensor.numel():  # an empty shard
        return reached.to(wide), reached.to(wide), reached.to(wide)
    return absolute.amax().to(wide), reached.to(wide), bounds.amax().to(wide)


def clamped(tensor: Tensor, bounds: Tensor | float) -> Tensor:
    """A copy with every element clamped to its own bound; a nan stays."""
    limits = torch.as_tensor(bounds, dtype=tensor.dtype, device=tensor.device)
    return tensor.clamp(-limits, limits).where(~tensor.isnan(), tensor)


def _clamp_rows(matrix: Tensor, bound: float) -> Tensor:
    """Clamps rows, in parts that stay in the cache. Returns each row's largest magnitude before, [rows]."""
    on_host = is_host(matrix.device)
    parts = _parts(matrix)
    scratch = buffer(matrix, parts[0].numel())
    largest = []
    for part in parts:
        largest.append(magnitudes(part, scratch).amax(1))
        if not (on_host and largest[-1].amax().item() <= bound):  # a nan compares false, too
            part.clamp_(-bound, bound)
    return torch.stack(largest).amax(0)


def _parts(matrix: Tensor) -> Sequence[Tensor]:
    return torch.split(matrix, PART if is_host(matrix.device) else LARGE_PART, 1)


@lru_cache
def _representable(bound: float, dtype: torch.dtype) -> float:
    """The bound rounded to the nearest value of the type, as torch's clamp does; inf beyond the type's range."""
    return torch.tensor(bound, dtype=dtype, device="cpu").item() if bound < torch.finfo(dtype).max else math.inf
