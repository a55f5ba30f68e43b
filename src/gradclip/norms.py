"""Norms of many tensors: right to 1e-6 at any size, finite for finite gradients, never 0 for tiny ones.

A float32 norm taken in one go goes wrong in three ways: squares above 3e38 overflow, squares below
1e-38 vanish, and one accumulator over 10^7 elements loses four digits. On the CPU a long tensor is
measured as a matrix of short rows, whose norms are put together in float64, and a value that may
have left the range is measured again with care: looking costs nothing there. On an accelerator
looking would stop the queue, so everything is accumulated in float64 from the start.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradclip import foreach

# Over so many float32 squares an accumulator is right to 9e-7, even if they are equal or one of them is huge.
ROW = 256
ROW64 = 128  # float64: half as many fit into a register, and as few additions follow one another
ACROSS = 32  # the norms of so many pieces are put together at once, before those of a tensor are
SMALL = 16384  # tensors of up to so many elements, and of one shape, are copied into one matrix: fewer operations


def vector_norm(tensor: Tensor, p: float = 2.0, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """torch's, with types."""
    norm: Tensor = torch.linalg.vector_norm(tensor, p, dim=dim, dtype=dtype)
    return norm


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device: float64, but float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


class Plan:
    """How tensors of these shapes are measured: those of one small shape together, as the rows of one matrix.

    Good for all lists of tensors with the same shapes in the same order, so that it need be made only once.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        groups: dict[Any, list[int]] = {}
        self.on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
        for place, tensor in enumerate(tensors):
            if 0 < tensor.numel() <= SMALL and self.on_cpu:
                groups.setdefault((tensor.shape, tensor.dtype), []).append(place)
            elif tensor.numel() > 0:
                groups[place] = [place]
        self.count, self.groups = len(tensors), list(groups.values())
        self.order = [place for group in self.groups for place in group]
        self._kinds = {place: (tensors[place].numel(), tensors[place].dtype) for place in self.order}
        # The norms are found in the groups' order, with a 0 at their end for every tensor that is empty.
        found = {place: number for number, place in enumerate(self.order)}
        self._listed = [found.get(place, len(found)) for place in range(self.count)]
        self._back = torch.tensor(self._listed)
        self._moves = self.order != list(range(self.count))

    @cached_property
    def squares_fit(self) -> bool:
        """Whether the squares of all elements are within float64's range."""
        return all(dtype != torch.float64 for _, dtype in self._kinds.values())

    @cached_property
    def slots(self) -> "Slots":
        """Where the norms of the pieces are kept."""
        return Slots([(group, *self._kinds[group[0]]) for group in self.groups])

    @cached_property
    def floors(self) -> list[float]:
        """[tensors], in the groups' order: the norms below which each has to be measured with care."""
        return [_floor(dtype, count) for count, dtype in self._kinds.values()]

    @cached_property
    def highest_floor(self) -> float:
        return max(self.floors)

    def rows(self, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        """[tensors of the group, elements]: each group as a matrix, a tensor a row."""
        for group in self.groups:
            if len(group) == 1:
                yield flat_view(tensors[group[0]]).unsqueeze(0)
            else:
                yield torch.stack([tensors[place] for place in group]).reshape(len(group), -1)

    def in_order(self, norms: Tensor) -> Tensor:
        """[tensors] from the norms in the groups' order; 0 for an empty tensor."""
        if not self._moves:
            return norms
        if len(norms) < self.count:
            norms = torch.cat([norms, norms.new_zeros(1)])
        self._back = self._back.to(norms.device)  # sent once: sending waits for an accelerator
        return norms.index_select(0, self._back)

    def listed_in_order(self, norms: list[float]) -> list[float]:
        """`in_order` of plain floats."""
        return [*map([*norms, 0.0].__getitem__, self._listed)] if self._moves else norms


class Slot(NamedTuple):
    """Room for the norms of a group's pieces.

    shape: [tensors, pieces, elements], as which the group is measured; None where there is a rest.
    norms: [tensors, pieces]. dtype: in which squares are added up, None for their own.
    """

    group: list[int]
    shape: tuple[int, int, int] | None
    norms: Tensor
    dtype: torch.dtype | None


class Slots:
    """One buffer for the norms of all pieces, in which every tensor fills whole rows of ACROSS, the rest with 0.

    groups: the places of its tensors, how many elements each has, and of which type.
    """

    def __init__(self, groups: Sequence[tuple[list[int], int, torch.dtype]]):
        numbers = [-(-count // _piece(count, dtype)) for _, count, dtype in groups]
        rows = [-(-number // ACROSS) for number in numbers]
        sizes = [len(group) * row * ACROSS for (group, _, _), row in zip(groups, rows, strict=True)]
        double = any(dtype == torch.float64 for _, _, dtype in groups)
        buffer = torch.zeros(sum(sizes), dtype=torch.float64 if double else torch.float32)
        self._rows = buffer.view(-1, ACROSS)
        ends = [0, *accumulate(row for (group, _, _), row in zip(groups, rows, strict=True) for _ in group)]
        self._spans = list(pairwise(ends))  # of each tensor's rows
        self.all = [
            self._slot(group, count, dtype, part.view(len(group), -1)[:, :number])
            for (group, count, dtype), number, part in zip(groups, numbers, torch.split(buffer, sizes), strict=True)
        ]

    def _slot(self, group: list[int], count: int, dtype: torch.dtype, norms: Tensor) -> Slot:
        even = count % _piece(count, dtype) == 0 and (_accumulated(dtype) or dtype) == norms.dtype
        shape = (*norms.shape, _piece(count, dtype)) if even else None
        return Slot(group, shape, norms, _accumulated(dtype))

    def together(self) -> list[float]:
        """[tensors], in the groups' order: the norm of each one's pieces."""
        rows = vector_norm(self._rows, dim=1).tolist()
        return [rows[begin] if end == begin + 1 else math.hypot(*rows[begin:end]) for begin, end in self._spans]


def tensor_norms(tensors: Sequence[Tensor], p: float, plan: Plan | None = None) -> Tensor:
    """The p-norm of each tensor, [tensors], on the first one's device in the widest type it has.

    Empty tensors have norm 0. A nan or infinite element gives a nan or infinite norm, and nothing else does.
    plan: that of earlier tensors of the same shapes.
    """
    plan = plan or Plan(tensors)
    device = tensors[0].device
    wide = wide_dtype(device)
    if not plan.groups:
        return torch.zeros(plan.count, dtype=wide, device=device)
    if plan.on_cpu and p == 2.0:
        return torch.tensor(host_norms(tensors, plan), dtype=torch.float64)
    if p == 2.0 and wide == torch.float64 and plan.squares_fit:
        full = [tensors[place] for place in plan.order]
        return plan.in_order(torch.stack([norm.to(device) for norm in foreach.norms(full, dtype=wide)]))
    return plan.in_order(torch.cat([row_norms(rows, p).to(device, wide) for rows in plan.rows(tensors)]))


def host_norms(tensors: Sequence[Tensor], plan: Plan) -> list[float]:
    """The 2-norm of each tensor on the CPU, [tensors].

    Between two passes over large tensors the cache is cold, and an operation on a handful of numbers costs as
    much as 50,000 elements: what can be known beforehand stands in the plan, and the rest is plain floats.
    """
    if not plan.groups:
        return [0.0] * plan.count
    measure = torch.linalg.vector_norm
    for group, shape, norms, dtype in plan.slots.all:
        alone = len(group) == 1
        values = tensors[group[0]] if alone else torch.stack([tensors[place] for place in group])
        if shape is not None and values.is_contiguous():
            measure(values.view(shape), 2, 2, dtype=dtype, out=norms)
        else:
            norms.copy_(pieces_of(flat_view(values).unsqueeze(0) if alone else values.reshape(len(group), -1)))
    found = plan.slots.together()
    if min(found) <= plan.highest_floor or not math.isfinite(sum(found)):
        for number, (norm, floor) in enumerate(zip(found, plan.floors, strict=True)):
            if not floor < norm < math.inf:  # of nothing but zeros, not finite, or out of the range of squares
                found[number] = row_norms(flat_view(tensors[plan.order[number]]).unsqueeze(0), 2.0).item()
    return plan.listed_in_order(found)


def row_norms(rows: Tensor, p: float, pieces: Tensor | None = None) -> Tensor:
    """The p-norm of each row of a matrix, [rows], in the widest type of its device, whatever its range.

    pieces: what `pieces_of` found, where that is known.
    """
    wide = wide_dtype(rows.device)
    if rows.numel() == 0:
        return torch.zeros(len(rows), dtype=wide, device=rows.device)
    if p == math.inf:  # a tenth of the cost of vector_norm
        high, low = (rows.amax(), rows.amin()) if len(rows) == 1 else (rows.amax(1), rows.amin(1))
        return torch.maximum(high, -low).view(-1).to(wide)
    if rows.device.type == "cpu" and p == 2.0:
        norms = vector_norm((pieces_of(rows) if pieces is None else pieces).double(), dim=1)
        floor = _floor(rows.dtype, rows.shape[1])
        if bool(((norms > floor) & (norms < math.inf)).all()):
            return norms
        largest = row_norms(rows, math.inf)
        doubtful = ((norms <= floor) & (largest > 0)) | (norms.isinf() & largest.isfinite())
        return norms if not bool(doubtful.any()) else _careful_row_norms(rows, p)
    return _careful_row_norms(rows, p)


def combine(norms: Tensor, p: float) -> Tensor:
    """The p-norm of a vector of norms, 0-d: the norm of all their tensors together. Of a matrix, that of each column.

    Divided by the largest first, so that the powers neither overflow nor vanish.
    """
    if norms.numel() == 0:
        return norms.new_zeros(norms.shape[1:])
    if p == 2.0 and norms.device.type == "cpu" and norms.dim() == 1 and len(norms) <= 1000:
        return norms.new_tensor(math.hypot(*norms.tolist()))  # two operations in the place of eight
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


def pieces_of(rows: Tensor) -> Tensor:
    """[rows, pieces]: the 2-norms of short pieces of every row. Fast, and blind to the range of squares."""
    dtype = _accumulated(rows.dtype)
    count, length = rows.shape
    piece = _piece(length, rows.dtype)
    if length % piece == 0:
        return vector_norm(rows.reshape(-1, piece), dim=1, dtype=dtype).view(count, -1)
    cut = length // piece * piece
    whole = vector_norm(rows[:, :cut].reshape(count, -1, piece), dim=2, dtype=dtype)
    return torch.cat([whole, vector_norm(rows[:, cut:], dim=1, dtype=dtype).unsqueeze(1)], 1)


@cache
def _piece(length: int, dtype: torch.dtype) -> int:
    """The size of pieces, at most ROW: one that leaves no rest, of whole vector registers if there is one."""
    most = ROW64 if dtype == torch.float64 else ROW
    sizes = [*range(most, most // 2, -16), *range(most, most // 2, -1)]
    return next((size for size in sizes if length % size == 0), min(most, length))


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


def flat_view(tensor: Tensor) -> Tensor:
    """All elements in one dimension and any order: a view wherever the memory is dense."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def _accumulated(dtype: torch.dtype) -> torch.dtype | None:
    """In which type squares are added up: their own (None), but not in half precision."""
    return None if dtype in (torch.float32, torch.float64) else torch.float32


def _floor(dtype: torch.dtype, count: int) -> float:
    """The 2-norm of so many elements below which their squares may have lost more than 1e-7 to underflow."""
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    return math.sqrt(count) * math.sqrt(torch.finfo(accumulated).tiny / 1e-7)
