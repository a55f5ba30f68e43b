"""Norms of many tensors: right to 1e-6 at any size, finite for finite gradients, never 0 for tiny ones.

A float32 norm taken in one go goes wrong in three ways: squares above 3e38 overflow, squares below
1e-38 vanish, and one accumulator over 10^7 elements loses four digits. On the CPU the fast norm is
taken first, in rows where a tensor is long, and the rare value that may have gone wrong is measured
again in double precision: looking costs nothing there. On an accelerator looking would stop the
queue, so everything is accumulated in double precision from the start.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROW = 512  # a long tensor is measured as a matrix of rows of this length: right to 3e-7 even if all elements are equal
LONG = 1024  # up to here one float32 accumulator is as good, and a second operation would cost more


def tensor_norms(tensors: Sequence[Tensor], p: float) -> Tensor:
    """The p-norm of each tensor, [tensors], on the first one's device in the widest dtype it has.

    Empty tensors have norm 0. A nan or infinite element gives a nan or infinite norm, and nothing else does.
    """
    device = tensors[0].device
    wide = wide_dtype(device)
    norms = torch.zeros(len(tensors), dtype=wide, device=device)
    full = [i for i, tensor in enumerate(tensors) if tensor.numel() > 0]
    if not full:
        return norms
    present = [tensors[i].detach() for i in full]
    if all(tensor.device.type == "cpu" for tensor in present):
        measured = _cpu_norms(present, p)
    else:
        measured = torch.stack([_careful_norm(tensor, p).to(device, wide) for tensor in present])
    return measured if len(full) == len(tensors) else norms.index_copy(0, torch.tensor(full, device=device), measured)


def combine(norms: Tensor, p: float) -> Tensor:
    """The p-norm of a vector of norms, 0-d: the norm of all their tensors together.

    Divided by the largest first, so that the powers neither overflow nor vanish.
    """
    if norms.numel() == 0:
        return norms.new_zeros(())
    largest = norms.amax()
    if p == math.inf:
        return largest
    usable = (largest > 0) & largest.isfinite()
    together = vector_norm(norms / largest, p) * largest
    return torch.where(usable, together, largest)


def vector_norm(tensor: Tensor, p: float = 2.0, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """torch's, with types."""
    norm: Tensor = torch.linalg.vector_norm(tensor, p, dim=dim, dtype=dtype)
    return norm


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device: float64, but float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def _cpu_norms(tensors: Sequence[Tensor], p: float) -> Tensor:
    """[tensors] in float64: fast first, then a second, careful look at what may have left the range."""
    if p != 2.0:
        return torch.stack([_careful_norm(tensor, p) for tensor in tensors])
    norms = {i: _norm_by_rows(tensor) for i, tensor in enumerate(tensors) if tensor.numel() > LONG}
    short = [i for i in range(len(tensors)) if i not in norms]
    for dtype in {tensors[i].dtype for i in short}:
        same = [i for i in short if tensors[i].dtype == dtype]
        measured = torch._foreach_norm([tensors[i] for i in same], 2, dtype=_accumulator(dtype))
        norms.update(zip(same, measured, strict=True))
    together = torch.stack([norms[i] for i in range(len(tensors))]).double()
    low, high = torch.aminmax(together)
    if low.item() > _floor(tensors) and high.item() < math.inf:
        return together
    for i, (tensor, norm) in enumerate(zip(tensors, together.tolist(), strict=True)):
        if norm == math.inf or norm <= _floor([tensor]):
            together[i] = _careful_norm(tensor, 2.0)
    return together


def _norm_by_rows(tensor: Tensor) -> Tensor:
    """The 2-norm of a long tensor as the norm of its rows' norms, 0-d float64: accurate, and on all threads."""
    flat = _flat(tensor)
    cut = flat.numel() // ROW * ROW
    dtype = _accumulator(tensor.dtype)
    rows = vector_norm(flat[:cut].view(-1, ROW), dim=1, dtype=dtype).double()
    rest = vector_norm(flat[cut:], dtype=dtype).double()
    return vector_norm(torch.cat([rows, rest.view(1)]))


def _careful_norm(tensor: Tensor, p: float) -> Tensor:
    """The p-norm of one non-empty tensor, 0-d, whatever its range: in float64, or divided by its largest element."""
    if p == math.inf:
        return vector_norm(tensor, p).to(wide_dtype(tensor.device))
    if p <= 2.0 and tensor.dtype != torch.float64 and wide_dtype(tensor.device) == torch.float64:
        return vector_norm(tensor, p, dtype=torch.float64)
    # Here a square or a power may leave even the widest type; an accelerator pays a second reading.
    wide = tensor.to(wide_dtype(tensor.device))
    largest = vector_norm(wide, math.inf)
    usable = (largest > 0) & largest.isfinite()
    return torch.where(usable, vector_norm(wide / largest, p) * largest, largest)


def _flat(tensor: Tensor) -> Tensor:
    """All elements in one dimension and any order: a view wherever the memory is dense."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def _floor(tensors: Sequence[Tensor]) -> float:
    """The 2-norm below which the squares of so many elements may have lost more than 1e-7 to underflow."""
    count = max(tensor.numel() for tensor in tensors)
    tiny = max(torch.finfo(_accumulator(tensor.dtype)).tiny for tensor in tensors)
    return math.sqrt(count) * math.sqrt(tiny / 1e-7)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    """Half precision is summed in float32, the others in their own type."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
