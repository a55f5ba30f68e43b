"""The parameters that a Clipper was given: their gradients, and the norms of these."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.errors import InvalidField, UnmatchedPatternError
from gradclip.norms import Plan, combine, host_norms, tensor_norms, wide_dtype
from gradclip.sharding import Gathered, as_placed, groups_of, is_sharded, piece

Gradients = dict[int, Tensor]  # by the parameter's place in the list of all


class Norms:
    """The 2-norm of every parameter's gradient, and of all together; as tensors and as floats, whichever is asked for.

    each: [parameters], on the gradients' device, or plain floats on the host. Asking an accelerator for floats
    waits for it.
    """

    def __init__(self, each: Tensor | list[float]):
        if isinstance(each, Tensor):
            self.each = each
        else:
            self.listed = each

    @cached_property
    def each(self) -> Tensor:
        """[parameters]"""
        return torch.tensor(self.listed, dtype=torch.float64)

    @cached_property
    def listed(self) -> list[float]:
        found: list[float] = self.each.tolist()
        return found

    @cached_property
    def total(self) -> Tensor:
        """0-d"""
        on_host = "listed" in vars(self)
        return torch.tensor(self.listed_total, dtype=torch.float64) if on_host else combine(self.each, 2.0)

    @cached_property
    def listed_total(self) -> float:
        return math.hypot(*self.listed)


class Parameters:
    """Named parameters, a tied one once, under the first of its names.

    Of a parameter that is cut over several processes, `gradients` and `piece` give what this process holds;
    shapes, sizes and norms are those of the whole.
    """

    def __init__(self, named: Iterable[tuple[str, Parameter]]):
        seen: dict[int, tuple[str, Parameter]] = {}
        for pair in named:
            if isinstance(pair, Tensor):
                raise TypeError("Clipper takes model.named_parameters(), whose names it reports, not parameters()")
            if pair[1].is_complex():
                raise TypeError(f"{pair[0]} is complex; only real parameters are clipped")
            seen.setdefault(id(pair[1]), pair)
        if not seen:
            raise ValueError("Clipper was given no parameters; an iterator can be read only once")
        self.names = tuple(name for name, _ in seen.values())
        if len(set(self.names)) < len(self.names):
            twice = next(name for place, name in enumerate(self.names) if name in self.names[:place])
            raise ValueError(f"two parameters have the name {twice}; give them prefixes, as named_parameters(prefix=…)")
        self.all = [parameter for _, parameter in seen.values()]
        self.device = self.all[0].device
        # Looking at a value costs nothing on the CPU; on an accelerator it would stop the queue.
        self.may_look = all(parameter.device.type == "cpu" for parameter in self.all)
        self.cuts = [groups_of(parameter) for parameter in self.all]
        self._cut = any(self.cuts)
        self._placed = [is_sharded(parameter) for parameter in self.all]
        self._gathered = Gathered(self.cuts)
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._steady = True  # until a sparse gradient is seen, whose rows are others at every step

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_plans": {}}  # pickle would part the buffers in a plan from their views

    def __len__(self) -> int:
        return len(self.all)

    @property
    def plain(self) -> bool:
        """Whether all are whole and on the host, so that figures of them may be plain floats."""
        return self.may_look and not self._cut

    def piece(self, place: int) -> Tensor:
        """A parameter's values as far as they are here."""
        return piece(self.all[place])

    def gradients(self) -> Gradients:
        """Those there are, as dense tensors that share their memory; a sparse one by its coalesced values."""
        found = {place: gradient for place, p in enumerate(self.all) if (gradient := p.grad) is not None}
        for place, gradient in found.items():
            if gradient.is_sparse:
                if not gradient.is_coalesced():
                    self.all[place].grad = gradient = gradient.coalesce()
                found[place] = gradient.values()  # shares the gradient's memory
                self._steady = False
            elif self._placed[place]:
                self.all[place].grad = gradient = as_placed(gradient, self.all[place])
                found[place] = piece(gradient)
        return found

    def norms(self, tensors: Mapping[int, Tensor], p: float = 2.0) -> Tensor:
        """[parameters]: the p-norm of each tensor by the parameters' places, 0 where there is none."""
        if not tensors:
            norms = torch.zeros(len(self), dtype=wide_dtype(self.device), device=self.device)
        else:
            norms = tensor_norms(list(tensors.values()), p, self.plan(tensors)).to(self.device)
            if len(tensors) < len(self):
                norms = norms.new_zeros(len(self)).index_copy(0, places(tuple(tensors), self.device), norms)
        return self.whole(norms, p)

    def measure(self, gradients: Gradients) -> Norms:
        """The gradients' 2-norms."""
        if self.plain and len(gradients) == len(self):
            return Norms(host_norms(list(gradients.values()), self.plan(gradients)))
        return Norms(self.norms(gradients))

    def plan(self, tensors: Mapping[int, Tensor]) -> Plan:
        """How tensors by the parameters' places are measured; made once for the same places."""
        key = kind_of(tensors)
        if not self._steady:
            return Plan(list(tensors.values()))
        if key not in self._plans:
            if len(self._plans) > 100:
                self._plans.clear()  # which parameters exceed a bound may be others at every step
            self._plans[key] = Plan(list(tensors.values()))
        return self._plans[key]

    def whole(self, figures: Tensor, p: float) -> Tensor:
        """[parameters]: p-norms of whole tensors from those of the pieces here; with p = 1, sums."""
        return self._gathered.whole(figures, p)

    def gradient_ids(self) -> list[int]:
        """[parameters]: the `id` of each gradient, which tells one tensor from another."""
        return [id(parameter.grad) for parameter in self.all]


def kind_of(tensors: Mapping[int, Tensor]) -> tuple[Any, ...]:
    """By which what is known of such a set of tensors is kept: their places, and a type, which model.half() changes."""
    return (next((one.dtype for one in tensors.values()), None), *tensors)


def select(names: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> list[int]:
    """The places of the names that match any of `include` (none given: all) and none of `exclude`.

    Raises UnmatchedPatternError for a pattern that matches nothing, InvalidField if nothing is left.
    """
    for side, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UnmatchedPatternError(side, pattern, names)

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    chosen = [
        place
        for place, name in enumerate(names)
        if (not include or matches(name, include)) and not matches(name, exclude)
    ]
    if not chosen:
        raise InvalidField("exclude", list(exclude), "patterns that leave at least one parameter to clip")
    return chosen


_places: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}


def places(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as an index on a device; made once, since making it there would wait for the device."""
    if (numbers, device) not in _places:
        if len(_places) > 1000:
            _places.clear()  # the set of gradients that there are seldom changes; a bound all the same
        _places[numbers, device] = torch.tensor(numbers, dtype=torch.long, device=device)
    return _places[numbers, device]
