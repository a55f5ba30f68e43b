"""The gradients of named parameters: which there are, and how they are reached."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.errors import InvalidField, UnmatchedPatternError
from gradclip.norms import tensor_norms, wide_dtype

Gradients = dict[int, Tensor]  # by the parameter's place in the list of all


def unique_parameters(named: Iterable[tuple[str, Parameter]]) -> tuple[list[str], list[Parameter]]:
    """The names and the parameters, a tied parameter once, under the first of its names."""
    seen: dict[int, tuple[str, Parameter]] = {}
    for pair in named:
        if isinstance(pair, Tensor):
            raise TypeError("Clipper takes model.named_parameters(), whose names it reports, not model.parameters()")
        if pair[1].is_complex():
            raise TypeError(f"{pair[0]} is complex; only real parameters are clipped")
        seen.setdefault(id(pair[1]), pair)
    if not seen:
        raise ValueError("Clipper was given no parameters; an iterator can be read only once")
    return [name for name, _ in seen.values()], [parameter for _, parameter in seen.values()]


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


def collect(parameters: Sequence[Parameter]) -> Gradients:
    """The gradients there are, as dense tensors that share their memory; a sparse one by its coalesced values."""
    found: Gradients = {}
    for place, parameter in enumerate(parameters):
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            if not gradient.is_coalesced():
                parameter.grad = gradient = gradient.coalesce()
            gradient = gradient._values()
        found[place] = gradient
    return found


def norms_of(gradients: Gradients, count: int, p: float, device: torch.device) -> Tensor:
    """[count]: the p-norm of every parameter's gradient, 0 where there is none."""
    if not gradients:
        return torch.zeros(count, dtype=wide_dtype(device), device=device)
    norms = tensor_norms(list(gradients.values()), p).to(device)
    if len(gradients) == count:
        return norms
    return norms.new_zeros(count).index_copy(0, places(tuple(gradients), device), norms)


_places: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}


def places(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as an index on a device; made once, since making it there would wait for the device."""
    if (numbers, device) not in _places:
        if len(_places) > 1000:
            _places.clear()  # the set of gradients that there are seldom changes; a bound all the same
        _places[numbers, device] = torch.tensor(numbers, dtype=torch.long, device=device)
    return _places[numbers, device]
