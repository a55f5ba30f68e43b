"""Which gradients are measured together: the scopes."""

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradclip import foreach
from gradclip.gradients import Gradients, Norms, Parameters, kind_of, places
from gradclip.norms import SMALL, combine, combine_groups, row_norms, wide_dtype
from gradclip.sharding import Gathered, rows_of

if TYPE_CHECKING:
    from torch.optim import Optimizer


def make_blocks(scope: str, parameters: Parameters, selected: list[int], optimizer: "Optimizer | None") -> "Blocks":
    """The blocks of the selected parameters under a scope."""
    if scope == "unit":
        return UnitBlocks(selected, parameters)
    keys: dict[int, str]
    names = parameters.names
    if scope == "model":
        keys = dict.fromkeys(selected, "model")
    elif scope == "parameter":
        keys = {place: names[place] for place in selected}
    elif scope == "layer":
        keys = {place: names[place].rpartition(".")[0] or names[place] for place in selected}
    elif scope == "group":
        keys = _groups(selected, parameters, optimizer)
    else:
        raise NotImplementedError(f"scope={scope} has no blocks")
    labels = list(dict.fromkeys(keys.values()))
    number = {label: block for block, label in enumerate(labels)}
    return Blocks(labels, selected, parameters, [number[keys[place]] for place in selected])


def _groups(selected: list[int], parameters: Parameters, optimizer: "Optimizer | None") -> dict[int, str]:
    if optimizer is None:
        raise ValueError('scope="group" needs the optimizer: Clipper(…, optimizer=optimizer)')
    groups = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
    for place in selected:
        if id(parameters.all[place]) not in groups:
            name = parameters.names[place]
            raise ValueError(f'scope="group": {name} is in no parameter group of the optimizer; exclude it')
    return {place: f"group {groups[id(parameters.all[place])]}" for place in selected}


TINY = torch.finfo(torch.float32).tiny  # below, float32 loses digits


class Blocks:
    """The selected parameters, each of them a part of one block.

    labels: the blocks' names. selected: the parameters' places in the list of all.
    """

    few = True  # no more blocks than parameters: on the host their figures are plain floats

    def __init__(self, labels: list[str], selected: list[int], parameters: Parameters, block_of: list[int]):
        self.labels, self.selected = labels, selected
        self._parameters = parameters
        self._numbers = [parameter.numel() for parameter in parameters.all]  # a sparse gradient stands for as many
        self._block_of = block_of
        self._single = block_of == list(range(len(block_of)))  # every parameter its own block
        self._sizes: dict[tuple[int, ...], Tensor] = {}
        self._together: dict[tuple[Any, ...], dict[Any, list[int]]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def own(self, gradients: Gradients) -> Gradients:
        """Those of the gradients that are selected."""
        if len(self.selected) == len(self._parameters):
            return gradients
        return {place: gradients[place] for place in self.selected if place in gradients}

    def norms(self, tensors: Mapping[int, Tensor], p: float, known: Norms | None = None) -> Tensor:
        """[blocks]: the p-norm of each block of gradients, or of anything else by the parameters' places.

        known: the parameters' norms, where these are what has been measured already.
        """
        if known is not None and len(self) == 1 and len(self.selected) == len(self._parameters):
            return known.total.view(1)
        each = self._parameters.norms(tensors, p) if known is None else known.each
        if len(self.selected) < len(self._parameters):
            each = each[places(tuple(self.selected), each.device)]
        if len(self) == 1:
            return combine(each, p).view(1)
        return each if self._single else combine_groups(each, places(tuple(self._block_of), each.device), len(self), p)

    def sizes(self, gradients: Gradients, device: torch.device) -> Tensor:
        """[blocks]: how many elements of gradients each block has."""
        key = tuple(gradients)
        if key not in self._sizes:
            _bound(self._sizes)
            counts = [0] * len(self)
            for block, place in zip(self._block_of, self.selected, strict=True):
                counts[block] += self._numbers[place] if place in gradients else 0
            self._sizes[key] = torch.tensor(counts, dtype=wide_dtype(device), device=device)
        return self._sizes[key]

    def multiply(self, gradients: Gradients, scales: Tensor | list[float]) -> None:
        """Multiplies every gradient by the scale of its block, in place; where scales are floats, not by 1."""
        if isinstance(scales, list):
            self._multiply_on_host(gradients, scales)
            return
        sent: dict[Any, tuple[Tensor, ...]] = {}
        for (block, device, dtype), places_of in self._batches(gradients).items():
            wide = torch.promote_types(dtype, torch.float32)
            if (device, wide) not in sent:
                sent[device, wide] = scales.to(device, wide).unbind()
            _multiply([gradients[place] for place in places_of], sent[device, wide][block])

    def _multiply_on_host(self, gradients: Gradients, scales: list[float]) -> None:
        alone: dict[Any, list[tuple[Tensor, float]]] = {}  # blocks of one gradient, multiplied in one call
        for (block, _, dtype), places_of in self._batches(gradients).items():
            if (scale := scales[block]) == 1.0:
                continue
            if len(places_of) == 1 and dtype.itemsize >= 4 and not 0.0 < scale < TINY:
                alone.setdefault(dtype, []).append((gradients[places_of[0]], scale))
                continue
            for factor in split_factor(scale):
                wide = torch.promote_types(dtype, torch.float32)
                _multiply([gradients[place] for place in places_of], torch.tensor(factor, dtype=wide))
        for dtype, pairs in alone.items():
            foreach.multiply([one for one, _ in pairs], torch.tensor([one for _, one in pairs], dtype=dtype).unbind())

    def _batches(self, gradients: Gradients) -> dict[Any, list[int]]:
        """(block, device, dtype) -> the places of the gradients that are multiplied together."""
        key = kind_of(gradients)
        if key not in self._together:
            _bound(self._together)
            together: dict[Any, list[int]] = {}
            for block, place in zip(self._block_of, self.selected, strict=True):
                if place in gradients:
                    kind = gradients[place].device, gradients[place].dtype
                    together.setdefault((block, *kind), []).append(place)
            self._together[key] = together
        return self._together[key]

    def after(self, gradients: Gradients, before: Norms, scales: Tensor | list[float]) -> Norms | None:
        """The 2-norms that scaling leaves of those before; None where only measuring can tell."""
        if any(dtype.itemsize < 4 for _, _, dtype in self._batches(gradients)):
            return None  # half precision rounds
        # A norm of 0, as of a missing gradient, stays 0 beside one that is nan and makes the scale nan.
        if isinstance(scales, list):
            now = before.listed.copy()
            for block, place in zip(self._block_of, self.selected, strict=True):
                if now[place] != 0.0:
                    now[place] *= scales[block]
            return Norms(now)
        device = scales.device
        each = scales if self._single or len(self) == 1 else scales[places(tuple(self._block_of), device)]
        own = before.each
        if len(self.selected) < len(self._parameters):
            selected = places(tuple(self.selected), device)
            each = torch.ones_like(own).index_copy(0, selected, each.expand(len(selected)))
        return Norms((own * each).where(own != 0, own))


class UnitBlocks(Blocks):
    """Blocks of rows: the fan-in of one output; a vector or a scalar is one block."""

    few = False

    def __init__(self, selected: list[int], parameters: Parameters):
        whole = parameters.all
        self._rows = {place: whole[place].shape[0] if whole[place].dim() > 1 else 1 for place in selected}
        self._here = {place: rows_of(whole[place]) if whole[place].dim() > 1 else None for place in selected}
        self._gathered = Gathered([parameters.cuts[place] for place, rows in self._rows.items() for _ in range(rows)])
        labels = [f"{parameters.names[place]}[{row}]" for place, rows in self._rows.items() for row in range(rows)]
        super().__init__(labels, selected, parameters, [])
        self._owners = [place for place, rows in self._rows.items() for _ in range(rows)]
        self._starts = dict(zip(self._rows, accumulate(self._rows.values(), initial=0), strict=False))
        self._found: dict[tuple[int, ...], Tensor] = {}

    def norms(self, tensors: Mapping[int, Tensor], p: float, known: Norms | None = None) -> Tensor:
        device = self._parameters.device
        own = [(place, tensors[place]) for place in self.selected if place in tensors and tensors[place].numel()]
        if not own:
            return self._gathered.whole(torch.zeros(len(self), dtype=wide_dtype(device), device=device), p)
        groups: dict[Any, list[tuple[int, Tensor]]] = {}  # small tensors of one shape are measured in one go
        for place, tensor in own:
            many = self._parameters.may_look and tensor.numel() <= SMALL
            groups.setdefault((tensor.shape, tensor.dtype) if many else place, []).append((place, tensor))
        parts, order = [], []
        for group in groups.values():
            first, one = group[0]
            matrix = self._matrix(one, first)
            if len(group) > 1:
                matrix = torch.stack([tensor for _, tensor in group]).reshape(len(group) * len(matrix), -1)
            parts.append(row_norms(matrix, p).to(device))
            order += [place for place, _ in group]
        parts.append(parts[0].new_zeros(1))
        return self._gathered.whole(torch.cat(parts)[self._back(tuple(order), device)], p)

    def _back(self, order: tuple[int, ...], device: torch.device) -> Tensor:
        """[blocks]: where each block's norm is found among those of these parameters; behind them, where nowhere."""
        if order not in self._found:
            count, found = 0, torch.full((len(self),), -1)
            for place in order:
                here, rows = self._here[place], self._rows[place]
                own = torch.arange(rows) if here is None else here.cpu()
                found[self._starts[place] + own] = torch.arange(count, count + len(own))
                count += len(own)
            self._found = {order: found.where(found >= 0, count).to(device)}
        return self._found[order]

    def sizes(self, gradients: Gradients, device: torch.device) -> Tensor:
        key = tuple(gradients)
        if key not in self._sizes:
            _bound(self._sizes)
            counts = [
                self._numbers[place] // max(rows, 1) if place in gradients else 0
                for place, rows in self._rows.items()
                for _ in range(rows)
            ]
            self._sizes[key] = torch.tensor(counts, dtype=wide_dtype(device), device=device)
        return self._sizes[key]

    def multiply(self, gradients: Gradients, scales: Tensor | list[float]) -> None:
        assert isinstance(scales, Tensor)
        chosen: Iterable[int] = self.selected
        if self._parameters.may_look:
            chosen = {self._owners[row] for row in torch.nonzero(scales != 1).flatten().tolist()}
            if bool(((scales > 0) & (scales < TINY)).any()):  # two factors, where float32 would lose digits of one
                scales = scales.sqrt()
                self._multiply_rows(gradients, chosen, scales)
        self._multiply_rows(gradients, chosen, scales)

    def _multiply_rows(self, gradients: Gradients, chosen: Iterable[int], scales: Tensor) -> None:
        batches: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        sent: dict[Any, dict[int, Tensor]] = {}
        for place in chosen:
            if place not in gradients or gradients[place].numel() == 0:
                continue
            gradient, here = gradients[place], self._here[place]
            kind = gradient.device, torch.promote_types(gradient.dtype, torch.float32)
            if kind not in sent:
                parts = torch.split(scales.to(*kind), list(self._rows.values()))
                sent[kind] = dict(zip(self.selected, parts, strict=True))
            factor = sent[kind][place]
            shaped = gradient if gradient.dim() else gradient.view(1)
            several, factors = batches.setdefault(kind, ([], []))
            several.append(shaped)
            factors.append((factor if here is None else factor[here]).view(-1, *[1] * (shaped.dim() - 1)))
        for several, factors in batches.values():
            foreach.multiply(several, factors)

    def after(self, gradients: Gradients, before: Norms, scales: Tensor | list[float]) -> Norms | None:
        return None

    def _matrix(self, tensor: Tensor, place: int) -> Tensor:
        here = self._here[place]
        rows = self._rows[place] if here is None else len(here)
        if tensor.dim() > 1 and tensor.shape[0] != rows:
            raise ValueError("scope=unit cannot take a sparse gradient, whose rows change; exclude that parameter")
        return tensor.detach().reshape(rows, -1) if tensor.numel() else tensor.new_zeros(rows, 0)


def _bound(kept: dict[Any, Any]) -> None:
    """Which gradients there are may be others at every step: what is known of each set is not kept for ever."""
    if len(kept) > 100:
        kept.clear()


def split_factor(factor: float) -> list[float]:
    """The factor, or two whose product it is where it is so small that float32 would keep few of its digits."""
    return [math.sqrt(factor)] * 2 if 0.0 < factor < TINY else [factor]


def _multiply(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiplies tensors of one type by a 0-d factor, in place.

    A factor rounded to half precision would be off by up to 0.4 %, so there it stays in float32: as a
    tensor of one dimension it takes part in type promotion.
    """
    if gradients[0].dtype == factor.dtype:
        foreach.multiply(gradients, factor)
        return
    for gradient in gradients:
        (gradient if gradient.dim() else gradient.view(1)).mul_(factor.view(1))
