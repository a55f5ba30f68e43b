"""Limiting single elements, in place, and counting those that exceeded their limit."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from gradclip.norms import (
    LARGE_PART,
    PART,
    chunk_norms,
    in_order,
    index_tensor,
    is_host,
    row_norms,
    stacked,
    tensor_norms,
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
        order += indices
        found.append(_clamp_rows(matrix, limit, before[index_tensor(tuple(indices), before.device)]))
        if len(indices) > 1 or matrix.data_ptr() != tensors[indices[0]].data_ptr():  # the matrix is a copy
            changed = found[-1][1].tolist() if is_host(matrix.device) else [1] * len(indices)
            for index, count in zip(indices, changed, strict=True):
                if count:
                    tensors[index].clamp_(-limit, limit)
    if not found:  # all are empty
        return before, before, before
    largest, exceeded, after = (
        in_order([figures.to(before) for figures in each], order, before) for each in zip(*found, strict=True)
    )
    return largest, exceeded, after if is_host(before.device) else tensor_norms(tensors)


def clamp_each(tensor: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Clamps every element to its own bound, in place; a nan stays. 0-d: the largest magnitude, how many exceeded."""
    sizes = tensor.abs()
    exceeded = (sizes > bounds).sum()
    limits = bounds.to(tensor.dtype)
    tensor.copy_(tensor.clamp(-limits, limits).where(~tensor.isnan(), tensor))
    return sizes.amax() if sizes.numel() else sizes.new_zeros(()), exceeded


def _clamp_rows(matrix: Tensor, bound: float, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clamps the rows in parts that stay in the cache: [rows] each, as of `clamp`; after is of use on the CPU alone."""
    on_host = is_host(matrix.device)
    largest, exceeded = [], []
    chunks: list[Tensor | None] = []
    parts = torch.split(matrix, PART if on_host else LARGE_PART, 1)
    room = torch.empty_like(parts[0], dtype=torch.promote_types(matrix.dtype, torch.float32))
    for part in parts:
        sizes = room[:, : part.shape[1]]
        sizes = torch.abs(part, out=sizes) if part.dtype == sizes.dtype else sizes.copy_(part).abs_()
        largest.append(sizes.amax(1))
        if on_host and bool((largest[-1] <= bound).all()):
            chunks.append(None)
            continue
        exceeded.append(sizes.gt_(bound).sum(1))
        part.clamp_(-bound, bound)
        chunks.append(chunk_norms(part) if on_host else None)
    most = torch.stack(largest).amax(0)
    if not exceeded:
        return most, torch.zeros_like(most), before
    after = before
    if on_host:
        measured = [chunk_norms(part) if found is None else found for part, found in zip(parts, chunks, strict=True)]
        after = row_norms(matrix, chunks=torch.cat(measured, 1))
    return most, torch.stack(exceeded).sum(0, dtype=before.dtype), after


@lru_cache
def _representable(bound: float, dtype: torch.dtype) -> float:
    """The bound as the type rounds it, so that what was clamped does not exceed it; inf where no number exceeds it."""
    return torch.tensor(bound, dtype=dtype, device="cpu").item() if bound < torch.finfo(dtype).max else math.inf
