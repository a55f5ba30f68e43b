"""Blocks of gradients that are measured together: sets of parameters, or the units of each parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradclip import foreach
from gradclip.distributed import gather_norms, is_dtensor, rows_of
from gradclip.gradients import Gradients
from gradclip.norms import SMALL, combine, combine_groups, in_order, index_tensor, is_host, row_norms, wide_dtype

if TYPE_CHECKING:
    from torch.optim import Optimizer

FLOAT32 = torch.finfo(torch.float32)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Blocks:
    """A partition of the selected parameters into blocks.

    labels: the blocks' names. block_of: [parameters], the index of each parameter's block, None if not selected.
    shared: whether the blocks extend over all processes, each of which holds different parameters of them.
    """

    def __init__(self, labels: tuple[str, ...], block_of: tuple[int | None, ...], shared: bool):
        self.labels, self.block_of, self.shared = labels, block_of, shared
        self.selected = tuple(index for index, block in enumerate(block_of) if block is not None)
        self.members = tuple(block for block in block_of if block is not None)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def key(self) -> object:
        """Is equal for equal blocks."""
        return self.labels

    def norms(self, gradients: Gradients, p: float, parameter_norms: Tensor | None = None) -> Tensor:
        """The p-norm of each block, [blocks]. parameter_norms: [parameters], if they were measured already."""
        norms = gradients.norms(p) if parameter_norms is None else parameter_norms
        if self.shared and gradients.partition:
            return gradients.over_processes(norms, self.block_of, len(self), p)
        if len(self.selected) < len(norms):
            norms = norms[index_tensor(self.selected, norms.device)]
        if len(self) == 1:
            return combine(norms, p).view(1)
        if len(self) == len(norms):
            return norms
        return combine_groups(norms, index_tensor(self.members, norms.device), len(self), p)

    def weight_norms(self, gradients: Gradients) -> Tensor:
        """The 2-norm of each block's parameters that require or have a gradient, [blocks]."""
        return self.norms(gradients, 2.0, gradients.norms_of(gradients.weights(), 2.0))

    def sizes(self, gradients: Gradients) -> Tensor:
        """The number of elements of each block's gradients, [blocks]."""
        counts = gradients.element_counts()
        if self.shared and gradients.partition:
            return gradients.over_processes(counts, self.block_of, len(self), 1.0)
        selected, members = (index_tensor(indices, counts.device) for indices in (self.selected, self.members))
        return counts.new_zeros(len(self)).index_add(0, members, counts[selected])

    def multiply(self, gradients: Gradients, scales: Tensor) -> None:
        """Multiplies every gradient by the scale of its block, in place. scales: [blocks]."""
        by_type: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = defaultdict(dict)
        for index in self._to_scale(scales) if is_host(scales.device) else self.selected:
            if (tensor := gradients.tensors[index]) is not None:
                by_type[tensor.device, tensor.dtype][index] = tensor
        for (device, dtype), tensors in by_type.items():
            for factors in _factors(scales, device, dtype):
                foreach.multiply(*self._pairs(tensors, factors))

    def after(self, gradients: Gradients, before: Tensor, scales: Tensor) -> Tensor:
        """The gradients' 2-norms after scaling, [parameters]: computed, or measured where half precision rounds.

        before: [parameters], their 2-norms before. scales: [blocks].
        """
        # Parameters count too: a gradient may be missing on some processes, and all must measure if one does.
        dtypes = {tensor.dtype for tensor in [*gradients.parameters, *gradients.tensors] if tensor is not None}
        if any(dtype.itemsize < 4 for dtype in dtypes):
            return gradients.norms()
        if len(self) > 1 or len(self.selected) < len(self.block_of):
            blocks = tuple(len(self) if block is None else block for block in self.block_of)
            scales = torch.cat([scales, scales.new_ones(1)])[index_tensor(blocks, scales.device)]
        after = before * scales
        # A norm of 0, as of a missing gradient, stays 0 where another norm makes the block's scale nan.
        return after.where(before != 0, before)

    def _to_scale(self, scales: Tensor) -> list[int]:
        """The indices of the parameters whose scale is not 1. Reads from the device."""
        listed = scales.tolist()
        return [index for index, block in zip(self.selected, self.members, strict=True) if listed[block] != 1.0]

    def _pairs(self, tensors: dict[int, Tensor], factors: Tensor) -> tuple[list[Tensor], Tensor | list[Tensor]]:
        """Pairs gradients with their factors, one for each or one for all. tensors: by parameter; factors: [blocks]."""
        by_block = factors.unbind()
        chosen = by_block[0] if len(self) == 1 else [by_block[self.block_of[index] or 0] for index in tensors]
        return list(tensors.values()), chosen


class Units(Blocks):
    """Blocks that are units: the fan-in of each output of a matrix or kernel; a vector is one unit.

    Outputs are in dimension 0, except in a transposed convolution, where dimension 1 has the outputs of each group.
    """

    def __init__(self, gradients: Gradients, selected: tuple[int, ...]):
        transposed = _transposed_groups(gradients.module)
        self.selected, self._names = selected, gradients.names
        self._groups = {index: transposed.get(id(gradients.parameters[index]), 0) for index in selected}
        self._rows: dict[int, int] = {}
        self._local_rows: dict[int, tuple[int, ...] | None] = {}  # of DTensors: the units on this process, None for all
        for index in selected:
            parameter, groups = gradients.parameters[index], self._groups[index]
            self._rows[index] = 1 if parameter.dim() < 2 else parameter.shape[1] * groups or parameter.shape[0]
            if is_dtensor(parameter) and parameter.dim() > 1:
                self._local_rows[index] = _local_units(gradients.names[index], parameter, groups)

    def __len__(self) -> int:
        return sum(self._rows.values())

    @property
    def key(self) -> object:
        """Is equal for equal units, whose names are many."""
        return self._names, tuple(self._rows.items())

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """The parameter's name and the index of the output, [units]."""
        return tuple(f"{self._names[index]}[{row}]" for index, rows in self._rows.items() for row in range(rows))

    def norms(self, gradients: Gradients, p: float, parameter_norms: Tensor | None = None) -> Tensor:
        """The p-norm of each unit's gradient, [units], 0 for a missing one. parameter_norms: ignored."""
        return self._norms(gradients, gradients.tensors, p)

    def weight_norms(self, gradients: Gradients) -> Tensor:
        """The 2-norm of each unit of the parameters that require or have a gradient, [units]."""
        return self._norms(gradients, gradients.weights(), 2.0)

    def sizes(self, gradients: Gradients) -> Tensor:
        """The number of elements of each unit's gradient, [units]."""
        counts = gradients.element_counts()
        parts = [(counts[index] / max(rows, 1)).expand(rows) for index, rows in self._rows.items()]
        return torch.cat([counts[:0], *parts])

    def after(self, gradients: Gradients, before: Tensor, scales: Tensor) -> Tensor:
        """Measures the gradients' 2-norms after scaling, [parameters]; a parameter's units have different scales."""
        return gradients.norms()

    def _norms(self, gradients: Gradients, tensors: Sequence[Tensor | None], p: float) -> Tensor:
        alike: dict[object, list[tuple[int, Tensor]]] = defaultdict(list)  # small tensors of one shape are stacked
        for index in self.selected:
            if (tensor := tensors[index]) is not None:
                small = tensor.numel() <= SMALL
                view, units = self._by_unit(index, tensor), 2 if self._groups[index] else 1
                rest = sorted(range(units, view.dim()), key=view.stride, reverse=True)  # keeps channels_last a view
                view = view.permute(*range(units), *rest)
                matrix = view.reshape(self._count(index), -1 if tensor.numel() else 0)
                alike[(matrix.shape, matrix.dtype, matrix.device) if small else index].append((index, matrix))
        device, wide = gradients.device, wide_dtype(gradients.device)
        by_parameter = {index: torch.zeros(rows, dtype=wide, device=device) for index, rows in self._rows.items()}
        for pairs in alike.values():
            indices, matrices = zip(*pairs, strict=True)
            norms = row_norms(torch.cat(matrices) if len(matrices) > 1 else matrices[0], p).to(device, wide)
            for index, part in zip(indices, torch.split(norms, list(map(len, matrices))), strict=True):
                by_parameter[index] = self._all_rows(index, part)
        return self._gathered(gradients, by_parameter, p)

    def _all_rows(self, index: int, local: Tensor) -> Tensor:
        """Extends values of a parameter's units on this process to all its units, with 0 for the others."""
        rows = self._local_rows.get(index)
        return local if rows is None else in_order([local], rows, local.new_zeros(self._rows[index]))

    def _gathered(self, gradients: Gradients, by_parameter: dict[int, Tensor], p: float) -> Tensor:
        """Combines the p-norms of this process's units, by parameter, into those over all processes, [units]."""
        empty = torch.zeros(0, dtype=wide_dtype(gradients.device), device=gradients.device)
        norms = torch.cat([empty, *by_parameter.values()])
        if not gradients.shards:
            return norms
        return gather_norms(norms, [gradients.shards[index] for index, n in self._rows.items() for _ in range(n)], p)

    def _to_scale(self, scales: Tensor) -> list[int]:
        parts = zip(self.selected, torch.split(scales != 1, list(self._rows.values())), strict=True)
        return [index for index, changed in parts if bool(changed.any())]

    def _pairs(self, tensors: dict[int, Tensor], factors: Tensor) -> tuple[list[Tensor], Tensor | list[Tensor]]:
        parts = dict(zip(self.selected, torch.split(factors, list(self._rows.values())), strict=True))
        views, shaped = [], []
        for index, tensor in tensors.items():
            view = self._by_unit(index, tensor)
            rows, units = self._local_rows.get(index), 2 if self._groups[index] else 1
            factor = parts[index] if rows is None else parts[index][index_tensor(rows, factors.device)]
            views.append(view)
            shaped.append(factor.view(*view.shape[:units], *[1] * (view.dim() - units)))
        return views, shaped

    def _count(self, index: int) -> int:
        """The number of a parameter's units on this process."""
        rows = self._local_rows.get(index)
        return self._rows[index] if rows is None else len(rows)

    def _by_unit(self, index: int, tensor: Tensor) -> Tensor:
        """A view of the tensor whose first dimension is the units; the first two, in a transposed convolution."""
        if tensor.dim() < 2 and self._count(index) == 1:
            return tensor.view(1, -1)
        if groups := self._groups[index]:
            return torch.unflatten(tensor, 0, (groups, -1)).movedim(2, 1)
        if tensor.dim() < 2 or len(tensor) != self._count(index):
            name = self._names[index]
            raise ValueError(
                f"scope=unit cannot take the gradient of {name}, whose rows are not those of the parameter: "
                "it is sparse, or the parameter's shape has changed; exclude it"
            )
        return tensor


def make_blocks(scope: str, gradients: Gradients, selected: tuple[int, ...], optimizers: Sequence[Optimizer]) -> Blocks:
    """Makes the blocks of a scope. selected: indices of the parameters.

    Raises ValueError if the scope is `group` and a parameter that requires a gradient is in no optimizer's group.
    """
    if scope == "unit":
        return Units(gradients, selected)
    numbers = _group_numbers(gradients, selected, optimizers) if scope == "group" else ()
    # Every group is a block, in the optimizer's order: a process may hold no parameter of a group that others hold.
    groups = range(sum(len(optimizer.param_groups) for optimizer in optimizers))
    shared = {"model": ("model",), "group": tuple(f"group {number}" for number in groups)}.get(scope, ())
    return _blocks(scope, gradients.names, selected, numbers, shared)


@lru_cache(maxsize=64)
def _blocks(
    scope: str,
    names: tuple[str, ...],
    selected: tuple[int, ...],
    groups: tuple[int | None, ...],
    shared: tuple[str, ...],
) -> Blocks:
    labels: dict[int, str]
    if scope == "model":
        labels = dict.fromkeys(selected, "model")
    elif scope == "layer":
        labels = {index: names[index].rpartition(".")[0] or names[index] for index in selected}
    elif scope == "group":
        labels = {index: f"group {groups[index]}" for index in selected if groups[index] is not None}
    else:
        labels = {index: names[index] for index in selected}
    number = {label: block for block, label in enumerate(dict.fromkeys([*shared, *labels.values()]))}
    block_of = tuple(number[labels[index]] if index in labels else None for index in range(len(names)))
    return Blocks(tuple(number), block_of, shared=scope in ("model", "group"))


def _group_numbers(
    gradients: Gradients, selected: tuple[int, ...], optimizers: Sequence[Optimizer]
) -> tuple[int | None, ...]:
    """The number of each parameter's group, counted over all optimizers, [parameters]; None if it is in no group."""
    if not optimizers:
        raise ValueError('scope="group" needs the optimizer: Clipper(…, optimizer=optimizer)')
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    number = {id(parameter): n for n, group in enumerate(groups) for parameter in group["params"]}
    numbers = tuple(number.get(id(parameter)) for parameter in gradients.parameters)
    for index in selected:
        if numbers[index] is None and (
            gradients.parameters[index].requires_grad or gradients.tensors[index] is not None
        ):
            name = gradients.names[index]
            raise ValueError(f'scope="group": {name} is in no parameter group of the optimizer; exclude it')
    return numbers


def _transposed_groups(model: nn.Module | None) -> dict[int, int]:
    """Maps the `id` of each weight of a transposed convolution, whose outputs are in dimension 1, to its `groups`."""
    groups = {}
    for module in model.modules() if model is not None else ():
        if isinstance(module, TRANSPOSED):
            for parameter in module.parameters():  # a parametrization has several
                if parameter.dim() > 1 and parameter.shape[1] * module.groups == module.out_channels:
                    groups[id(parameter)] = module.groups
    return groups


def _local_units(name: str, parameter: Tensor, groups: int) -> tuple[int, ...] | None:
    """The units of a DTensor on this process, None for all; raises ValueError for an unsupported placement."""
    sharded = [getattr(placement, "dim", None) for placement in parameter.placements]  # type: ignore[attr-defined]
    if groups and (groups > 1 or 1 in sharded):
        raise ValueError(
            f"scope=unit cannot take {name}: it is a transposed convolution sharded over its outputs; exclude it"
        )
    return None if groups else rows_of(parameter)


def _factors(scales: Tensor, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Converts scales into factors for gradients of a type, in at least float32, which half precision would round.

    On the CPU a scale outside float32's range becomes two factors, its square root twice.
    """
    wide = torch.promote_types(dtype.to_real() if dtype.is_complex else dtype, torch.float32)
    if wide != torch.float64 and is_host(scales.device):
        lowest, highest = scales.aminmax()
        if lowest < FLOAT32.tiny or highest > FLOAT32.max:
            return [scales.sqrt().to(device, wide)] * 2
    return [scales.to(device, wide)]
