"""Which gradients are measured together: the scopes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.gradients import Gradients, norms_of, places
from gradclip.norms import combine, combine_groups, row_norms, wide_dtype

if TYPE_CHECKING:
    from torch.optim import Optimizer


def make_blocks(
    scope: str,
    names: Sequence[str],
    parameters: Sequence[Parameter],
    selected: list[int],
    optimizer: "Optimizer | None",
) -> "Blocks":
    """The blocks of the selected parameters under a scope."""
    if scope == "unit":
        return UnitBlocks([names[place] for place in selected], selected, parameters)
    keys: dict[int, str]
    if scope == "model":
        keys = dict.fromkeys(selected, "model")
    elif scope == "parameter":
        keys = {place: names[place] for place in selected}
    elif scope == "layer":
        keys = {place: names[place].rpartition(".")[0] or names[place] for place in selected}
    elif scope == "group":
        keys = _groups(selected, names, parameters, optimizer)
    else:
        raise NotImplementedError(f"scope={scope} has no blocks")
    labels = list(dict.fromkeys(keys.values()))
    number = {label: block for block, label in enumerate(labels)}
    return Blocks(labels, selected, parameters, [number[keys[place]] for place in selected])


def _groups(
    selected: list[int], names: Sequence[str], parameters: Sequence[Parameter], optimizer: "Optimizer | None"
) -> dict[int, str]:
    if optimizer is None:
        raise ValueError('scope="group" needs the optimizer: Clipper(…, optimizer=optimizer)')
    groups = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
    for place in selected:
        if id(parameters[place]) not in groups:
            raise ValueError(f'scope="group": {names[place]} is in no parameter group of the optimizer; exclude it')
    return {place: f"group {groups[id(parameters[place])]}" for place in selected}


class Blocks:
    """The selected parameters, each of them a part of one block.

    labels: the blocks' names. selected: the parameters' places in the list of all.
    """

    def __init__(self, labels: list[str], selected: list[int], parameters: Sequence[Parameter], block_of: list[int]):
        self.labels, self.selected = labels, selected
        self._count = len(parameters)
        self._numbers = [parameter.numel() for parameter in parameters]  # a sparse gradient stands for as many
        self._block_of = block_of
        self._single = block_of == list(range(len(block_of)))  # every parameter its own block
        self._sizes: dict[tuple[int, ...], Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def own(self, gradients: Gradients) -> Gradients:
        """Those of the gradients that are selected."""
        if len(self.selected) == self._count:
            return gradients
        return {place: gradients[place] for place in self.selected if place in gradients}

    def norms(
        self, tensors: Mapping[int, Tensor], p: float, device: torch.device, known: Tensor | None = None
    ) -> Tensor:
        """[blocks]: the p-norm of each block of gradients, or of anything else by the parameters' places.

        known: each parameter's p-norm, [parameters], where it has been measured already.
        """
        each = norms_of(dict(tensors), self._count, p, device) if known is None else known
        each = each[places(tuple(self.selected), device)] if len(self.selected) < self._count else each
        if len(self) == 1:
            return combine(each, p).view(1)
        return each if self._single else combine_groups(each, places(tuple(self._block_of), device), len(self), p)

    def sizes(self, gradients: Gradients, device: torch.device) -> Tensor:
        """[blocks]: how many elements of gradients each block has."""
        key = tuple(gradients)
        if key not in self._sizes:
            counts = [0] * len(self)
            for block, place in zip(self._block_of, self.selected, strict=True):
                counts[block] += self._numbers[place] if place in gradients else 0
            self._sizes[key] = torch.tensor(counts, dtype=wide_dtype(device), device=device)
        return self._sizes[key]

    def multiply(self, gradients: Gradients, scales: Tensor, touched: Tensor | None) -> None:
        """Multiplies every gradient by the scale of its block, in place.

        touched: which blocks have a scale other than 1, where looking is free; None multiplies all.
        """
        look = None if touched is None else touched.tolist()
        batches: dict[tuple[int, torch.device, torch.dtype], list[Tensor]] = {}
        for block, place in zip(self._block_of, self.selected, strict=True):
            if place in gradients and (look is None or look[block]):
                gradient = gradients[place]
                batches.setdefault((block, gradient.device, gradient.dtype), []).append(gradient)
        for (block, device, dtype), batch in batches.items():
            factor = scales[block].to(device)
            for part in split_factor(factor, look=look is not None):
                _multiply(batch, part.to(torch.promote_types(dtype, torch.float32)))

    def after(self, before: Tensor, scales: Tensor, device: torch.device) -> Tensor | None:
        """[parameters]: the 2-norms that scaling leaves of those before; None where only measuring can tell."""
        each = scales if self._single else scales[places(tuple(self._block_of), device)]
        if len(self.selected) == self._count:
            return before * each
        selected = places(tuple(self.selected), device)
        return before.index_copy(0, selected, before[selected] * each)


class UnitBlocks(Blocks):
    """Blocks of rows: the fan-in of one output; a vector or a scalar is one block."""

    def __init__(self, labels: list[str], selected: list[int], parameters: Sequence[Parameter]):
        self._rows = {place: parameters[place].shape[0] if parameters[place].dim() > 1 else 1 for place in selected}
        rows = [
            f"{label}[{row}]" for label, place in zip(labels, selected, strict=True) for row in range(self._rows[place])
        ]
        super().__init__(rows, selected, parameters, [])

    def norms(
        self, tensors: Mapping[int, Tensor], p: float, device: torch.device, known: Tensor | None = None
    ) -> Tensor:
        parts = []
        for place in self.selected:
            if place in tensors:
                parts.append(row_norms(self._matrix(tensors[place], place), p).to(device))
            else:
                parts.append(torch.zeros(self._rows[place], dtype=wide_dtype(device), device=device))
        return torch.cat(parts)

    def sizes(self, gradients: Gradients, device: torch.device) -> Tensor:
        key = tuple(gradients)
        if key not in self._sizes:
            counts = [
                self._numbers[place] // max(rows, 1) if place in gradients else 0
                for place, rows in self._rows.items()
                for _ in range(rows)
            ]
            self._sizes[key] = torch.tensor(counts, dtype=wide_dtype(device), device=device)
        return self._sizes[key]

    def multiply(self, gradients: Gradients, scales: Tensor, touched: Tensor | None) -> None:
        counts = list(self._rows.values())
        parts = torch.split(scales, counts)
        looks = [None] * len(parts) if touched is None else torch.split(touched, counts)
        for place, part, look in zip(self.selected, parts, looks, strict=True):
            if place not in gradients or (look is not None and not bool(look.any())):
                continue
            gradient = gradients[place]
            factor = part.to(gradient.device)
            shaped = gradient if gradient.dim() else gradient.view(1)
            for piece in split_factor(factor, look=look is not None):
                piece = piece.to(torch.promote_types(gradient.dtype, torch.float32))
                shaped.mul_(piece.view(-1, *[1] * (shaped.dim() - 1)))

    def after(self, before: Tensor, scales: Tensor, device: torch.device) -> Tensor | None:
        return None

    def _matrix(self, tensor: Tensor, place: int) -> Tensor:
        if tensor.dim() > 1 and tensor.shape[0] != self._rows[place]:
            raise ValueError("scope=unit cannot take a sparse gradient, whose rows change; exclude that parameter")
        return (
            tensor.detach().reshape(self._rows[place], -1) if tensor.numel() else tensor.new_zeros(self._rows[place], 0)
        )


def split_factor(factor: Tensor, look: bool) -> list[Tensor]:
    """The factor, or two whose product it is where it is so small that float32 would keep few of its digits."""
    tiny = torch.finfo(torch.float32).tiny
    if look and bool(((factor > 0) & (factor < tiny)).any()):
        return [factor.sqrt(), factor.sqrt()]
    return [factor]


def _multiply(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiplies tensors of one type by a 0-d factor, in place.

    A factor rounded to half precision would be off by up to 0.4 %, so there it stays in float32: as a
    tensor of one dimension it takes part in type promotion.
    """
    if gradients[0].dtype == factor.dtype:
        torch._foreach_mul_(gradients, factor)
        return
    for gradient in gradients:
        (gradient if gradient.dim() else gradient.view(1)).mul_(factor.view(1))
