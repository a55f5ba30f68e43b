"""Gradients of which each process holds a part: sharded parameters (DTensors) and process groups.

Every process measures and scales what it holds. The norms are gathered and combined by the same arithmetic on
every process, so that all of them scale by the same factor. Which collectives are called, and in which order,
depends on the parameters alone and not on which of them have a gradient on a process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gradclip.errors import UnmatchedPatternError
from gradclip.norms import combine, index_tensor

Groups = tuple[Any, ...]  # process groups, in the order in which norms are gathered over them


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; asked without importing torch.distributed."""
    return hasattr(tensor, "device_mesh")


def shard_groups(tensor: Any) -> Groups:
    """The process groups over which a DTensor is sharded, one for each dimension of its mesh that shards it."""
    mesh = tensor.device_mesh
    dims = [dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    return tuple(mesh.get_group(dim) for dim in dims if mesh.size(dim) > 1)


def local_tensor(tensor: Any) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    found: Tensor = tensor.detach().to_local() if is_dtensor(tensor) else tensor.detach()
    return found


def redistribute_gradients(parameters: Sequence[Any]) -> None:
    """Brings every DTensor gradient into the placements of its parameter; a sum that is still in parts is summed.

    A parameter that is replicated may have such a partial sum on one process and no gradient on another: the
    processes tell each other first, and one without a gradient contributes zeros.
    """
    replicated: dict[Any, list[Any]] = {}
    for parameter in parameters:
        if is_dtensor(parameter):
            mesh = parameter.device_mesh
            if any(each.is_replicate() and mesh.size(dim) > 1 for dim, each in enumerate(parameter.placements)):
                replicated.setdefault(mesh, []).append(parameter)
            elif parameter.grad is not None and parameter.grad.placements != parameter.placements:
                parameter.grad = parameter.grad.redistribute(placements=parameter.placements)
    for mesh, those in replicated.items():
        _sum_partial_gradients(mesh, those)


def _sum_partial_gradients(mesh: Any, parameters: Sequence[Any]) -> None:
    from torch import distributed
    from torch.distributed.tensor import DTensor, Partial

    partial = [p.grad is not None and p.grad.placements != p.placements for p in parameters]
    flags = torch.tensor(partial, dtype=torch.int32, device=local_tensor(parameters[0]).device)
    for dim in range(mesh.ndim):
        distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=mesh.get_group(dim))
    for parameter, anywhere in zip(parameters, flags.tolist(), strict=True):
        if anywhere:
            gradient = parameter.grad
            if gradient is None:
                placements = [Partial() if each.is_replicate() else each for each in parameter.placements]
                zeros = torch.zeros_like(local_tensor(parameter))
                gradient = DTensor.from_local(
                    zeros, mesh, placements, shape=parameter.shape, stride=parameter.stride(), run_check=False
                )
            parameter.grad = gradient.redistribute(placements=parameter.placements)


def rows_of(tensor: Any) -> tuple[int, ...] | None:
    """The indices of the rows that this process holds of a DTensor; None where it holds all rows, or a part of each."""
    along_rows = tuple(getattr(placement, "dim", None) == 0 for placement in tensor.placements)
    if not any(along_rows):
        return None
    return _rows(len(tensor), tensor.device_mesh, tensor.placements, along_rows)


@lru_cache(maxsize=1024)
def _rows(count: int, mesh: Any, placements: tuple[Any, ...], along_rows: tuple[bool, ...]) -> tuple[int, ...]:
    from torch.distributed.tensor import Replicate, distribute_tensor

    kept = [placement if along else Replicate() for along, placement in zip(along_rows, placements, strict=True)]
    # Without a source rank every process takes its shard of its own copy, and nothing is sent.
    spread: Any = distribute_tensor(torch.arange(count, device=mesh.device_type), mesh, kept, src_data_rank=None)
    return tuple(local_tensor(spread).tolist())


def gather_norms(norms: Tensor, entries: Sequence[Groups], p: float) -> Tensor:
    """The p-norms of whole tensors, [entries], from those of the shards; with p = 1, sums; with inf, maxima."""
    members: dict[Groups, list[int]] = {}
    for entry, groups in enumerate(entries):
        if groups:
            members.setdefault(groups, []).append(entry)
    for groups, those in members.items():
        chosen = index_tensor(tuple(those), norms.device)
        norms = norms.index_copy(0, chosen, gather(norms[chosen], groups, p))
    return norms


def gather(norms: Tensor, groups: Groups, p: float) -> Tensor:
    """The p-norm of each entry over the processes of all groups, of the shape of norms."""
    from torch import distributed

    for group in groups:
        rows = [torch.empty_like(norms) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(rows, norms.contiguous(), group=group)
        norms = combine(torch.stack(rows), p)
    return norms


class ParameterGroups:
    """Which parameters differ between the processes of which groups, beside DTensors, which know it themselves.

    given: a process group, or several, whose processes all hold different parameters (a pipeline); or glob
    patterns of parameter names with such groups (experts), where all other parameters are the same everywhere.
    """

    def __init__(self, given: Any):
        if given is None:
            given = {}
        elif not isinstance(given, Mapping):
            given = {"*": given}
        self._groups: dict[str, Groups] = {
            pattern: tuple(groups) if isinstance(groups, Iterable) else (groups,) for pattern, groups in given.items()
        }

    def __bool__(self) -> bool:
        return bool(self._groups)

    def partition(self, names: Sequence[str]) -> list[tuple[tuple[int, ...], Groups]]:
        """The indices of the names that each pattern is the first to match, with its groups; the rest with none.

        Raises UnmatchedPatternError for a pattern that matches no name at all, "*" apart.
        """
        left, found = list(range(len(names))), []
        for pattern, groups in self._groups.items():
            matching = [index for index in left if fnmatchcase(names[index], pattern)]
            if not matching and pattern != "*":
                raise UnmatchedPatternError("process_group", pattern, names)
            found.append((tuple(matching), groups))
            left = [index for index in left if not fnmatchcase(names[index], pattern)]
        return [*found, (tuple(left), ())]
