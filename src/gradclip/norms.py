"""Norms of many tensors: right to 1e-6 at any size, finite for finite gradients, never 0 for tiny ones.

A float32 norm taken in one go goes wrong in three ways: squares above 3e38 overflow, squares below
1e-38 vanish, and one accumulator over 10^7 elements loses four digits. On the CPU a long tensor is
measured as a matrix of short rows, whose norms are put together in float64, and a value that may
have left the range is measured again with care: looking costs nothing there. On an accelerator
looking would stop the queue, so everything is accumulated in float64 from the start.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROW = 128  # one float32 accumulator over so many squares is right to 4e-7, even if they are equal or one is huge
SHORT = 1024  # up to here one pass in float64 is cheaper than two operations


def vector_norm(tensor: Tensor, p: float = 2.0, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """torch's, with types."""
    norm: Tensor = torch.linalg.vector_norm(tensor, p, dim=dim, dtype=dtype)
    return norm


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device: float64, but float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def tensor_norms(tensors: Sequence[Tensor], p: float) -> Tensor:
    """The p-norm of each tensor, [tensors], on the first one's device in the widest type it has.

    Empty tensors have norm 0. A nan or infinite element gives a nan or infinite norm, and nothing else does.
    """
    device = tensors[0].device
    wide = wide_dtype(device)
    full = [tensor.detach() for tensor in tensors if tensor.numel() > 0]
    if p == 2.0 and all(tensor.device.type == "cpu" for tensor in full):
        measured = iter(_cpu_norms(full))
    else:
        measured = iter(row_norms(_flat(tensor).view(1, -1), p).view(()) for tensor in full)
    zero = torch.zeros((), dtype=wide, device=device)
    return torch.stack([next(measured).to(device, wide) if tensor.numel() > 0 else zero for tensor in tensors])


def row_norms(rows: Tensor, p: float) -> Tensor:
    """The p-norm of each row of a matrix, [rows], in the widest type of its device, whatever its range."""
    wide = wide_dtype(rows.device)
    if rows.numel() == 0:
        return torch.zeros(len(rows), dtype=wide, device=rows.device)
    if p == math.inf:
        return vector_norm(rows, p, dim=1).to(wide)
    if rows.device.type == "cpu" and p == 2.0:
        norms = _fast_row_norms(rows)
        low, high = torch.aminmax(norms)
        if low.item() > _floor(rows) and high.item() < math.inf:
            return norms
        largest = vector_norm(rows, math.inf, dim=1)
        doubtful = ((norms <= _floor(rows)) & (largest > 0)) | (norms.isinf() & largest.isfinite())
        return norms if not bool(doubtful.any()) else _careful_row_norms(rows, p)
    return _careful_row_norms(rows, p)


def combine(norms: Tensor, p: float) -> Tensor:
    """The p-norm of a vector of norms, 0-d: the norm of all their tensors together. Of a matrix, that of each column.

    Divided by the largest first, so that the powers neither overflow nor vanish.
    """
    if norms.numel() == 0:
        return norms.new_zeros(norms.shape[1:])
    largest = norms.amax(0)
    if p == math.inf:
        return largest
    usable = (largest > 0) & largest.isfinite()
    return torch.where(usable, vector_norm(norms / largest, p, dim=0) * largest, largest)


def combine_groups(norms: Tensor, group: Tensor, count: int, p: float) -> Tensor:
    """[count]: `combine` over the norms of each group, where group, [norms], numbers them from 0."""
    largest = norms.new_zeros(count).scatter_reduce(0, group, norms, "amax")
    bad = norms.new_zeros(count).index_add(0, group, torch.where(norms.isfinite(), 0.0, norms))
    if p != math.inf:
        unit = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        powers = norms.new_zeros(count).index_add(0, group, (norms / unit[group]).pow(p))
        largest = powers.pow(1 / p) * unit
    return torch.where(bad == 0, largest, bad)


def _cpu_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each non-empty tensor, 0-d float64."""
    norms: dict[int, Tensor] = {}
    short = [place for place, tensor in enumerate(tensors) if tensor.numel() <= SHORT]
    for dtype in {tensors[place].dtype for place in short}:
        same = [place for place in short if tensors[place].dtype == dtype]
        norms.update(zip(same, torch._foreach_norm([tensors[p] for p in same], 2, dtype=torch.float64), strict=True))
        if dtype == torch.float64:  # its own range is not safe
            norms.update((place, _checked_norm(tensors[place], norms[place])) for place in same)
    return [
        norms[place] if place in norms else row_norms(_flat(tensor).view(1, -1), 2.0).view(())
        for place, tensor in enumerate(tensors)
    ]


def _checked_norm(tensor: Tensor, norm: Tensor) -> Tensor:
    safe = _floor(tensor.view(1, -1) if tensor.is_contiguous() else tensor.reshape(1, -1)) < norm.item() < math.inf
    return norm if safe else _careful_row_norms(tensor.reshape(1, -1), 2.0).view(())


def _fast_row_norms(rows: Tensor) -> Tensor:
    """[rows] in float64: every row cut into pieces of ROW elements. Fast, and blind to the range of squares."""
    dtype = rows.dtype if rows.dtype in (torch.float32, torch.float64) else torch.float32
    cut = rows.shape[1] // ROW * ROW
    pieces = vector_norm(rows[:, :cut].reshape(len(rows), cut // ROW, ROW), dim=2, dtype=dtype)
    rest = vector_norm(rows[:, cut:], dim=1, dtype=dtype)
    return vector_norm(torch.cat([pieces, rest.unsqueeze(1)], 1).double(), dim=1)


def _careful_row_norms(rows: Tensor, p: float) -> Tensor:
    """[rows], whatever the range: in float64, or divided by the largest element where even that may be left."""
    wide = wide_dtype(rows.device)
    if p <= 2.0 and wide == torch.float64 and rows.dtype != torch.float64:
        return vector_norm(rows, p, dim=1, dtype=torch.float64)
    values = rows.to(wide)
    largest = vector_norm(values, math.inf, dim=1)
    usable = (largest > 0) & largest.isfinite()
    unit = torch.where(usable, largest, 1.0).unsqueeze(1)
    return torch.where(usable, vector_norm(values / unit, p, dim=1) * largest, largest)


def _flat(tensor: Tensor) -> Tensor:
    """All elements in one dimension and any order: a view wherever the memory is dense."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def _floor(rows: Tensor) -> float:
    """The 2-norm below which the squares of a row may have lost more than 1e-7 to underflow."""
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    return math.sqrt(rows.shape[1]) * math.sqrt(torch.finfo(dtype).tiny / 1e-7)
