"""Which gradients are measured together: blocks of parameters, or the units of each parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradclip import foreach
from gradclip.distributed import gather_norms, is_dtensor, rows_of
from gradclip.gradients import Gradients
from gradclip.norms import SMALL, combine, combine_groups, index_tensor, is_host, row_norms, wide_dtype

if TYPE_CHECKING:
    from torch.optim import Optimizer

FLOAT32 = torch.finfo(torch.float32)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Blocks:
    """The selected parameters, each a part of one block.

    labels: the blocks' names. block_of: [parameters], the block of each, None where it is not selected.
    shared: whether the blocks are the same on all processes, which hold different parameters of them.
    """

    labels: tuple[str, ...]
    block_of: tuple[int | None, ...]
    shared: bool

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def selected(self) -> tuple[int, ...]:
        """The indices of the parameters that are in a block."""
        return tuple(index for index, block in enumerate(self.block_of) if block is not None)

    @cached_property
    def members(self) -> tuple[int, ...]:
        """[selected]: the block of each."""
        return tuple(block for block in self.block_of if block is not None)

    @cached_property
    def is_whole(self) -> bool:
        """Whether all parameters are in one block."""
        return len(self) == 1 and len(self.selected) == len(self.block_of)

    def norms(self, gradients: Gradients, p: float, each: Tensor | None = None) -> Tensor:
        """[blocks]: the p-norm of each block. each: those of the parameters, [parameters], where they are known."""
        each = gradients.norms(p) if each is None else each
        if self.shared and gradients.partition:
            return gradients.over_processes(each, self.block_of, len(self), p)
        if len(self.selected) < len(each):
            each = each[index_tensor(self.selected, each.device)]
        if len(self) == 1:
            return combine(each, p).view(1)
        if len(self) == len(each):
            return each
        return combine_groups(each, index_tensor(self.members, each.device), len(self), p)

    def sizes(self, gradients: Gradients) -> Tensor:
        """[blocks]: how many elements of gradients each block has."""
        counts = [0 if t is None else p.numel() for p, t in zip(gradients.parameters, gradients.tensors, strict=True)]
        each = index_tensor(tuple(counts), gradients.device).to(wide_dtype(gradients.device))
        if self.shared and gradients.partition:
            return gradients.over_processes(each, self.block_of, len(self), 1.0)
        sums = each.new_zeros(len(self))
        chosen, members = (index_tensor(numbers, each.device) for numbers in (self.selected, self.members))
        return sums.index_add(0, members, each[chosen])

    def weight_norms(self, gradients: Gradients) -> Tensor:
        """[blocks]: the 2-norm of the parameters that have a gradient."""
        return self.norms(gradients, 2.0, gradients.norms(tensors=gradients.weights()))

    def multiply(self, gradients: Gradients, scales: Tensor) -> None:
        """Multiplies every gradient by the scale of its block, in place. scales: [blocks]."""
        on_host = is_host(scales.device)
        listed = scales.tolist() if on_host else []
        groups: dict[Any, tuple[list[Tensor], list[int]]] = {}
        for index, block in enumerate(self.block_of):
            tensor = gradients.tensors[index]
            if tensor is not None and block is not None and not (on_host and listed[block] == 1.0):
                tensors, blocks = groups.setdefault((tensor.device, tensor.dtype), ([], []))
                tensors.append(tensor)
                blocks.append(block)
        for (device, dtype), (tensors, blocks) in groups.items():
            for factors in _factors(scales, device, dtype):
                each = factors.unbind()
                multiply(tensors, each[0] if len(self) == 1 else [each[block] for block in blocks])

    def after(self, gradients: Gradients, before: Tensor, scales: Tensor) -> Tensor:
        """[parameters]: the 2-norms that scaling leaves of those before it; measured where half precision rounds."""
        # Parameters count too, so that all processes measure if one does: a gradient may be missing on some.
        dtypes = {tensor.dtype for tensor in [*gradients.parameters, *gradients.tensors] if tensor is not None}
        if any(dtype.itemsize < 4 for dtype in dtypes):
            return gradients.norms()
        if not self.is_whole:
            chosen = tuple(len(self) if block is None else block for block in self.block_of)
            scales = torch.cat([scales, scales.new_ones(1)])[index_tensor(chosen, scales.device)]
        after = before * scales
        # A norm of 0, as of a missing gradient, stays 0 beside one that is nan and makes the scale nan.
        return after.where(before != 0, before)


class Units:
    """The units of the selected parameters: the fan-in of each output of a matrix or kernel; a vector is one unit.

    Outputs are in dimension 0, those of a transposed convolution in dimension 1, for each of its groups.
    """

    is_whole = False

    def __init__(self, gradients: Gradients, selected: tuple[int, ...]):
        self.selected = selected
        transposed = _transposed_groups(gradients.modules)
        self._names = gradients.names
        self._groups = {index: transposed.get(id(gradients.parameters[index]), 0) for index in selected}
        self._rows, self._here = {}, {}
        for index in selected:
            parameter, groups = gradients.parameters[index], self._groups[index]
            if parameter.dim() < 2:
                self._rows[index] = 1
            else:
                self._rows[index] = parameter.shape[1] * groups if groups else parameter.shape[0]
            if is_dtensor(parameter) and parameter.dim() > 1:
                self._here[index] = _rows_here(gradients.names[index], parameter, groups)

    def __len__(self) -> int:
        return sum(self._rows.values())

    @property
    def labels(self) -> tuple[str, ...]:
        """[units]: the parameter's name and the index of the output."""
        return tuple(f"{self._names[index]}[{row}]" for index, rows in self._rows.items() for row in range(rows))

    def norms(self, gradients: Gradients, p: float, each: Tensor | None = None) -> Tensor:
        """[units]: the p-norms of the gradients' units, 0 where there is no gradient. each: not needed."""
        return self._norms(gradients, gradients.tensors, p)

    def _norms(self, gradients: Gradients, tensors: Sequence[Tensor | None], p: float) -> Tensor:
        alike: dict[Any, list[int]] = {}  # small tensors of one shape are measured together
        for index in self.selected:
            tensor = tensors[index]
            if tensor is not None:
                small = tensor.numel() <= SMALL
                alike.setdefault((tensor.shape, tensor.dtype, tensor.device) if small else index, []).append(index)
        found: dict[int, Tensor] = {}
        for indices in alike.values():
            matrices = [self._matrix(index, tensor) for index in indices if (tensor := tensors[index]) is not None]
            norms = row_norms(torch.cat(matrices) if len(matrices) > 1 else matrices[0], p).to(gradients.device)
            found |= zip(indices, torch.split(norms, [len(matrix) for matrix in matrices]), strict=True)
        zeros = torch.zeros(len(self), dtype=wide_dtype(gradients.device), device=gradients.device)
        parts = zip(self.selected, torch.split(zeros, list(self._rows.values())), strict=True)
        whole = torch.cat([self._whole(index, found.get(index), part) for index, part in parts])
        if not gradients.shards:
            return whole
        return gather_norms(whole, [gradients.shards[index] for index, n in self._rows.items() for _ in range(n)], p)

    def sizes(self, gradients: Gradients) -> Tensor:
        """[units]: how many elements of gradients each unit has."""
        parts = []
        for index, rows in self._rows.items():
            size = 0 if gradients.tensors[index] is None else gradients.parameters[index].numel() / max(rows, 1)
            parts.append(torch.full((rows,), float(size), dtype=wide_dtype(gradients.device), device=gradients.device))
        return torch.cat(parts)

    def weight_norms(self, gradients: Gradients) -> Tensor:
        """[units]: the 2-norm of the parameters' units."""
        return self._norms(gradients, gradients.weights(), 2.0)

    def multiply(self, gradients: Gradients, scales: Tensor) -> None:
        """Multiplies every gradient by the scales of its units, in place. scales: [units]."""
        parts = dict(zip(self._rows, torch.split(scales, list(self._rows.values())), strict=True))
        groups: dict[Any, list[int]] = {}
        for index, part in parts.items():
            tensor = gradients.tensors[index]
            if tensor is not None and tensor.numel() and not (is_host(part.device) and bool((part == 1).all())):
                groups.setdefault((tensor.device, tensor.dtype), []).append(index)
        for (device, dtype), indices in groups.items():
            chosen = torch.cat([self._local(index, parts[index]) for index in indices])
            sizes = [len(self._local(index, parts[index])) for index in indices]
            for factors in _factors(chosen, device, dtype):
                tensors, shaped = [], []
                for index, factor in zip(indices, torch.split(factors, sizes), strict=True):
                    tensor = gradients.tensors[index]
                    assert tensor is not None
                    groups_of = self._groups[index]
                    view = (
                        torch.unflatten(tensor, 0, (groups_of, -1)) if groups_of else tensor.view(tensor.shape or (1,))
                    )
                    first = (groups_of, 1, -1) if groups_of else (-1,)
                    tensors.append(view)
                    shaped.append(factor.view(*first, *[1] * (view.dim() - len(first))))
                multiply(tensors, shaped)

    def after(self, gradients: Gradients, before: Tensor, scales: Tensor) -> Tensor:
        """[parameters]: the 2-norms after scaling, measured, since the units of a parameter are scaled differently."""
        return gradients.norms()

    def _matrix(self, index: int, tensor: Tensor) -> Tensor:
        rows = self._rows[index] if self._here.get(index) is None else len(self._here[index])
        if groups := self._groups[index]:
            return torch.unflatten(tensor, 0, (groups, -1)).transpose(1, 2).reshape(rows, -1)
        if tensor.dim() > 1 and tensor.shape[0] != rows:
            name = self._names[index]
            raise ValueError(
                f"scope=unit cannot take the gradient of {name}, whose rows are not those of the parameter: "
                "it is sparse, or was left from another shape; exclude it"
            )
        return tensor.reshape(rows, -1) if tensor.numel() else tensor.new_zeros(rows, 0)

    def _whole(self, index: int, norms: Tensor | None, zeros: Tensor) -> Tensor:
        if norms is None:
            return zeros
        here = self._here.get(index)
        return norms if here is None else zeros.index_copy(0, index_tensor(here, zeros.device), norms)

    def _local(self, index: int, figures: Tensor) -> Tensor:
        here = self._here.get(index)
        return figures if here is None else figures[index_tensor(here, figures.device)]


def _rows_here(name: str, parameter: Tensor, groups: int) -> Any:
    along = [getattr(placement, "dim", None) for placement in parameter.placements]  # type: ignore[attr-defined]
    if groups and (groups > 1 or 1 in along):
        raise ValueError(
            f"scope=unit cannot take {name}, a transposed convolution sharded over its outputs; exclude it"
        )
    return None if groups else rows_of(parameter)


def _transposed_groups(modules: Iterable[nn.Module]) -> dict[int, int]:
    """By the `id` of each weight of a transposed convolution, whose outputs are in dimension 1: its `groups`."""
    found = {}
    for module in modules:
        if isinstance(module, TRANSPOSED):
            for parameter in module.parameters():  # under a parametrization there are several
                if parameter.dim() > 1 and parameter.shape[1] * module.groups == module.out_channels:
                    found[id(parameter)] = module.groups
    return found


def multiply(tensors: list[Tensor], factors: Tensor | list[Tensor]) -> None:
    """Multiplies tensors of one device and type in place, each by its factor, or all by one 0-d factor.

    On an accelerator a 0-d factor would be rounded to half precision with its tensor, and be off by up to 0.4 %:
    with a dimension it takes part in type promotion.
    """
    if tensors[0].dtype.itemsize < 4 and not is_host(tensors[0].device):
        each = [factors] * len(tensors) if isinstance(factors, Tensor) else factors
        factors = [factor if factor.dim() else factor.view(1) for factor in each]
        tensors = [tensor if tensor.dim() else tensor.view(1) for tensor in tensors]
    foreach.multiply(tensors, factors)


def _factors(scales: Tensor, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The scales as factors for gradients of a type: of at least float32, so that they are not rounded to half.

    A scale outside float32's range becomes two factors on the CPU, its square root twice. On an accelerator,
    where nothing looks at it, it is limited to that range.
    """
    wide = torch.promote_types(dtype.to_real() if dtype.is_complex else dtype, torch.float32)
    if wide == torch.float64:
        return [scales.to(device, wide)]
    if not is_host(scales.device):
        return [scales.clamp(max=FLOAT32.max).to(device, wide)]
    lowest, highest = scales.aminmax()
    if lowest < FLOAT32.tiny or highest > FLOAT32.max:
        return [scales.sqrt().to(device, wide)] * 2
    return [scales.to(device, wide)]


def make_blocks(
    scope: str, gradients: Gradients, selected: tuple[int, ...], optimizers: Sequence[Optimizer]
) -> Blocks | Units:
    """The blocks of a scope, among the selected indices of the parameters.

    Raises ValueError if the scope is `group` and a parameter that learns is in no group of the optimizers.
    """
    if scope == "unit":
        return Units(gradients, selected)
    if scope == "group":
        return _blocks(scope, gradients.names, selected, _group_numbers(gradients, selected, optimizers))
    return _blocks(scope, gradients.names, selected, ())


def _group_numbers(
    gradients: Gradients, selected: tuple[int, ...], optimizers: Sequence[Optimizer]
) -> tuple[int | None, ...]:
    if not optimizers:
        raise ValueError('scope="group" needs the optimizer: Clipper(…, optimizer=optimizer)')
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    number = {id(parameter): n for n, group in enumerate(groups) for parameter in group["params"]}
    numbers = tuple(number.get(id(parameter)) for parameter in gradients.parameters)
    for index in selected:
        if numbers[index] is None and gradients.parameters[index].requires_grad:
            name = gradients.names[index]
            raise ValueError(f'scope="group": {name} is in no parameter group of the optimizer; exclude it')
    return numbers


@lru_cache(maxsize=64)
def _blocks(scope: str, names: tuple[str, ...], selected: tuple[int, ...], groups: tuple[int | None, ...]) -> Blocks:
    labels: dict[int, str | None]
    if scope == "model":
        labels = dict.fromkeys(selected, "model")
    elif scope == "layer":
        labels = {index: names[index].rpartition(".")[0] or names[index] for index in selected}
    elif scope == "group":
        labels = {index: f"group {groups[index]}" for index in selected if groups[index] is not None}
    else:
        labels = {index: names[index] for index in selected}
    number = {label: block for block, label in enumerate(dict.fromkeys(labels.values()))}
    block_of = tuple(number[labels[index]] if index in labels else None for index in range(len(names)))
    return Blocks(tuple(map(str, number)), block_of, shared=scope in ("model", "group"))
