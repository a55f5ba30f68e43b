"""Norms of many tensors: accurate to 1e-6 at any size, finite for finite gradients, not 0 for tiny ones.

A float32 norm with a single accumulator is wrong in three cases: squares above 3e38 overflow, squares below 1e-38
underflow, and over 10^7 elements it loses four digits. On the CPU the 2-norms of short chunks are computed in the
gradient's own precision and combined in float64; a result whose squares may have overflowed or underflowed is computed
again with scaling, since reading a value costs nothing there. On an accelerator reading would wait for the device, so
everything is accumulated in float64 from the start.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from gradclip import foreach

CHUNK = 256  # elements per float32 accumulator: accurate to 4e-7 for the worst values
SMALL = 16384  # tensors of at most this many elements are stacked with others of their shape
PART = 1 << 17  # elements of a temporary tensor: 512 KiB of float32, which stay in a core's cache
LARGE_PART = 1 << 22  # the same on an accelerator, where each operation costs a launch


def is_host(device: torch.device) -> bool:
    """Whether a value can be read without waiting for a device, so that a decision may depend on it."""
    return device.type == "cpu"


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device: float64, but float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def tensor_norms(tensors: Sequence[Tensor], p: float = 2.0) -> Tensor:
    """The p-norm of each tensor, [tensors], on the first tensor's device, in that device's widest type.

    tensors: at least one, of any shape, layout and precision. An empty tensor has norm 0. A nan or infinite
    element gives a nan or infinite norm; finite elements do not, unless the norm exceeds float64.
    """
    tensors = [_real(tensor, p) for tensor in tensors] if any(map(torch.is_complex, tensors)) else tensors
    device, wide = tensors[0].device, wide_dtype(tensors[0].device)
    on_host = all(map(is_host, {tensor.device for tensor in tensors}))
    if on_host and p == 2.0:
        return torch.tensor(_host_norms(tensors), dtype=wide, device=device)
    fits = wide == torch.float64 and all(tensor.dtype != torch.float64 for tensor in tensors)
    if not on_host and fits and p in (1.0, 2.0):
        norms = foreach.norms(list(tensors), p, wide)  # accumulates in float64 without a float64 copy of the tensors
    else:
        norms = [row_norms(flat_view(tensor).unsqueeze(0), p).view(()) for tensor in tensors]
    return torch.stack([norm.to(device, wide) for norm in norms])


def row_norms(matrix: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm of each row of a matrix, [rows], in the widest type of its device."""
    matrix = _real(matrix, p) if matrix.is_complex() else matrix
    wide = wide_dtype(matrix.device)
    if matrix.numel() == 0:
        return torch.zeros(len(matrix), dtype=wide, device=matrix.device)
    if p == math.inf:
        # Along a dimension aminmax takes ten times as long as amax and amin.
        low, high = matrix.aminmax() if len(matrix) == 1 else (matrix.amin(1), matrix.amax(1))
        return torch.maximum(high, -low).view(-1).to(wide)
    if p == 2.0 and is_host(matrix.device):
        norms: Tensor = torch.linalg.vector_norm(chunk_norms(matrix), 2, 1, dtype=wide)
        doubtful = ~((norms > _floor(matrix.shape[1], matrix.dtype)) & (norms < math.inf))
        if bool(doubtful.any()):
            doubtful[doubtful.clone()] = row_norms(matrix[doubtful], math.inf) != 0  # a norm of 0 is exact for zeros
            norms[doubtful] = _rescaled_norms(matrix[doubtful], p)
        return norms
    return _rescaled_norms(matrix, p)


def chunk_norms(matrix: Tensor) -> Tensor:
    """The 2-norms of short chunks of every row, [rows, chunks]; wrong where squares overflow or underflow."""
    rows, width = matrix.shape
    if matrix.dtype.itemsize < 4:
        if matrix.numel() > PART:
            size, dim = (max(PART // width, 1), 0) if rows > 1 else (PART, 1)
            return torch.cat([chunk_norms(part) for part in torch.split(matrix, size, dim)], dim)
        matrix = matrix.float()  # half precision has too few digits to add up squares
    size = _chunk_size(width)
    if rest := width % size:
        whole, last = torch.split(matrix, [width - rest, rest], 1)
        return torch.cat([chunk_norms(whole), torch.linalg.vector_norm(last, 2, 1, keepdim=True)], 1)
    norms: Tensor = torch.linalg.vector_norm(matrix.reshape(rows, -1, size), 2, 2)
    return norms


def stacked(tensors: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Yields the tensors as rows of matrices, with the tensors' indices; empty tensors are skipped.

    A large tensor is a matrix of one row, which shares its memory where that is dense. Small tensors of the same shape
    and type are copied into one matrix, since one operation on all costs less than one for each.
    """
    groups: dict[object, list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        if size := tensor.numel():
            groups[(tensor.shape, tensor.dtype, tensor.device) if size <= SMALL else index].append(index)
    for indices in groups.values():
        if len(indices) == 1:
            yield indices, flat_view(tensors[indices[0]]).unsqueeze(0)
        else:
            yield indices, torch.stack([tensors[index] for index in indices]).reshape(len(indices), -1)


def flat_view(tensor: Tensor) -> Tensor:
    """All elements in one dimension, in memory order: a view, or a copy if the memory has gaps."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def in_order(parts: Sequence[Tensor], indices: Sequence[int], like: Tensor) -> Tensor:
    """Concatenates the parts and places the entries at their indices in a vector shaped as `like`, 0 elsewhere."""
    return torch.zeros_like(like).index_copy(0, index_tensor(tuple(indices), like.device), torch.cat(list(parts)))


@lru_cache(maxsize=1024)
def index_tensor(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """An index tensor on a device. Cached, since copying one to an accelerator waits for it."""
    return torch.tensor(numbers, dtype=torch.long, device=device)


def combine(norms: Tensor, p: float) -> Tensor:
    """Combines a vector of p-norms into the p-norm of all their tensors together, 0-d; a matrix column by column.

    The norms are divided by the largest first, so that the powers neither overflow nor underflow.
    """
    if norms.numel() == 0:
        return norms.new_zeros(norms.shape[1:])
    if p == 2.0 and norms.dim() == 1 and is_host(norms.device):
        total = math.hypot(*norms.tolist())  # scales as well, but returns inf for inf beside nan
        if math.isfinite(total):
            return norms.new_tensor(total)
    largest = norms.amax(0)
    if p == math.inf:
        return largest
    usable = (largest > 0) & largest.isfinite()
    powers = torch.linalg.vector_norm(norms / torch.where(usable, largest, 1.0), p, dim=0)
    return torch.where(usable, powers * largest, largest)


def combine_groups(norms: Tensor, group: Tensor, count: int, p: float) -> Tensor:
    """Combines the norms of each group, [count], as `combine` does. group: [norms], the index of each one's group."""
    largest = norms.new_zeros(count).scatter_reduce(0, group, norms, "amax")
    bad = norms.new_zeros(count).index_add(0, group, torch.where(norms.isfinite(), 0.0, norms))
    if p != math.inf:
        unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        powers = norms.new_zeros(count).index_add(0, group, (norms / unit[group]).pow(p))
        largest = powers.pow(1 / p) * unit
    return torch.where(bad == 0, largest, bad)


def _host_norms(tensors: Sequence[Tensor]) -> list[float]:
    """The 2-norm of each tensor on the CPU, [tensors]."""
    result, large, chunks = [0.0] * len(tensors), [], []
    for indices, matrix in stacked(tensors):
        if len(indices) == 1:
            large.append(indices[0])
            chunks.append(chunk_norms(matrix).view(-1))
        else:
            norms = torch.linalg.vector_norm(chunk_norms(matrix), 2, 1, dtype=torch.float64)
            for index, norm in zip(indices, norms.tolist(), strict=True):
                result[index] = norm
    if chunks:
        norms = torch.stack(list(foreach.norms(chunks, 2.0, torch.float64)))
        for index, norm in zip(large, norms.tolist(), strict=True):
            result[index] = norm
    floor = _floor(max(map(Tensor.numel, tensors)), torch.float32)
    if not floor < min(result) or not max(result) < math.inf:
        for index, tensor in enumerate(tensors):
            if not _floor(tensor.numel(), tensor.dtype) < result[index] < math.inf and tensor.numel():
                matrix = flat_view(tensor).unsqueeze(0)
                if row_norms(matrix, math.inf).item() != 0:
                    result[index] = _rescaled_norms(matrix, 2.0).item()
    return result


def _rescaled_norms(matrix: Tensor, p: float) -> Tensor:
    """The p-norm of each row, [rows], for elements of any magnitude; in parts, so that temporaries are small."""
    if matrix.numel() == 0:
        return torch.zeros(len(matrix), dtype=wide_dtype(matrix.device), device=matrix.device)
    limit = PART if is_host(matrix.device) else LARGE_PART
    scratch, norms = buffer(matrix, limit), []
    for rows in torch.split(matrix, max(limit // matrix.shape[1], 1)):
        parts = [_scaled_norms(part, p, scratch) for part in torch.split(rows, limit, 1)]
        norms.append(parts[0] if len(parts) == 1 else combine(torch.stack(parts), p))
    return torch.cat(norms)


def buffer(matrix: Tensor, limit: int) -> Tensor:
    """Allocates a scratch buffer for the magnitudes of at most `limit` elements, to be reused for every part."""
    wide = torch.promote_types(matrix.dtype, torch.float32)
    return torch.empty(min(matrix.numel(), limit), dtype=wide, device=matrix.device)


def magnitudes(matrix: Tensor, scratch: Tensor) -> Tensor:
    """The elements' magnitudes, in at least float32, written into a scratch buffer."""
    absolute = scratch[: matrix.numel()].view(matrix.shape)
    return torch.abs(matrix, out=absolute) if matrix.dtype == absolute.dtype else absolute.copy_(matrix).abs_()


def _scaled_norms(matrix: Tensor, p: float, scratch: Tensor) -> Tensor:
    """The p-norm of each row, [rows], with the elements divided by the row's largest before their powers are taken."""
    wide = wide_dtype(matrix.device)
    absolute = magnitudes(matrix, scratch)
    largest = absolute.amax(1)
    unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    absolute.div_(unit.unsqueeze(1))
    powers = (absolute if p == 1.0 else absolute.pow_(p)).sum(1)
    return powers.to(wide).pow(1 / p) * unit.to(wide)


def _real(tensor: Tensor, p: float) -> Tensor:
    """A real tensor with the same norm: a complex element counts by its modulus, as in torch."""
    if not tensor.is_complex():
        return tensor
    if p == 2.0:
        return torch.view_as_real(tensor).flatten(-2)
    return tensor.abs()


@lru_cache(maxsize=1024)
def _chunk_size(width: int) -> int:
    """The chunk size, at most CHUNK: one that divides the width, if possible a multiple of 16 for vector registers."""
    sizes = [*range(CHUNK, CHUNK // 4, -16), *range(CHUNK, CHUNK // 4, -1)]
    return next((size for size in sizes if width % size == 0), min(CHUNK, width))


def _floor(count: int, dtype: torch.dtype) -> float:
    """The 2-norm of `count` elements below which underflow of their squares may have cost more than 1e-7 of it."""
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    return math.sqrt(count) * math.sqrt(torch.finfo(accumulated).tiny / 1e-7)
