"""Gradients that are distributed over processes: sharded parameters (DTensors) and process groups.

Every process measures and scales its local tensors. The norms are gathered and combined by the same arithmetic on
every process, so that all of them scale by the same factor. The sequence of collectives depends on the parameters
alone, not on which of them have a gradient on a process.
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
    """Whether a tensor is a DTensor; does not import torch.distributed."""
    return hasattr(tensor, "device_mesh")


def shard_groups(tensor: Any) -> Groups:
    """The process groups over which a DTensor is sharded, one for each dimension of its mesh that shards it."""
    mesh = tensor.device_mesh
    dims = [dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    return tuple(mesh.get_group(dim) for dim in dims if mesh.size(dim) > 1)


def local_tensor(tensor: Any) -> Tensor:
    """The local shard of a DTensor, or the tensor itself, detached and sharing its memory."""
    local: Tensor = tensor.detach().to_local() if is_dtensor(tensor) else tensor.detach()
    return local


def redistribute_gradients(parameters: Sequence[Any]) -> None:
    """Redistributes every DTensor gradient to the placements of its parameter; partial sums are reduced.

    A replicated parameter may have a partial sum on one process and no gradient on another: the processes exchange
    flags first, and a process without a gradient contributes zeros.
    """
    replicated: dict[Any, list[Any]] = {}
    for parameter in parameters:
        if is_dtensor(parameter):
            mesh = parameter.device_mesh
            if any(
                placement.is_replicate() and mesh.size(dim) > 1 for dim, placement in enumerate(parameter.placements)
            ):
                replicated.setdefault(mesh, []).append(parameter)
            elif parameter.grad is not None and parameter.grad.placements != parameter.placements:
                parameter.grad = parameter.grad.redistribute(placements=parameter.placements)
    for mesh, group in replicated.items():
        _sum_partial_gradients(mesh, group)


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
                placements = [Partial() if old.is_replicate() else old for old in parameter.placements]
                zeros = torch.zeros_like(local_tensor(parameter))
                gradient = DTensor.from_local(
                    zeros, mesh, placements, shape=parameter.shape, stride=parameter.stride(), run_check=False
                )
            parameter.grad = gradient.redistribute(placements=parameter.placements)


def without_partial_sums(tensor: Any) -> Any:
    """A DTensor whose partial sums are added over the processes; any other tensor as it is."""
    if not is_dtensor(tensor) or not any(placement.is_partial() for placement in tensor.placements):
        return tensor
    from torch.distributed.tensor import Replicate

    return tensor.redistribute(placements=[Replicate() if old.is_partial() else old for old in tensor.placements])


def rows_of(tensor: Any) -> tuple[int, ...] | None:
    """The indices of the rows of a DTensor that are on this process; None if dimension 0 is not sharded."""
    along_rows = tuple(getattr(placement, "dim", None) == 0 for placement in tensor.placements)
    if not any(along_rows):
        return None
    return _rows(len(tensor), tensor.device_mesh, tensor.placements, along_rows)


@lru_cache(maxsize=1024)
def _rows(count: int, mesh: Any, placements: tuple[Any, ...], along_rows: tuple[bool, ...]) -> tuple[int, ...]:
    from torch.distributed.tensor import Replicate, distribute_tensor

    kept = [placement if along else Replicate() for along, placement in zip(along_rows, placements, strict=True)]
    # Without a source rank every process takes the shard from its own tensor, and nothing is sent.
    rows: Any = distribute_tensor(torch.arange(count, device=mesh.device_type), mesh, kept, src_data_rank=None)
    return tuple(local_tensor(rows).tolist())


def gather_norms(norms: Tensor, entries: Sequence[Groups], p: float) -> Tensor:
    """Combines the p-norms of shards into those of whole tensors, [entries]; p = 1 gives sums, inf gives maxima.

    norms: [entries], of the local shards. entries: the process groups over which each one is sharded.
    """
    members: dict[Groups, list[int]] = {}
    for entry, groups in enumerate(entries):
        if groups:
            members.setdefault(groups, []).append(entry)
    for groups, indices in members.items():
        chosen = index_tensor(tuple(indices), norms.device)
        norms = norms.index_copy(0, chosen, gather(norms[chosen], groups, p))
    return norms


def gather(norms: Tensor, groups: Groups, p: float) -> Tensor:
    """Combines each entry's p-norm over the processes of all groups; the result has the shape of `norms`."""
    from torch import distributed

    for group in groups:
        rows = [torch.empty_like(norms) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(rows, norms.contiguous(), group=group)
        norms = combine(torch.stack(rows), p)
    return norms


class ParameterGroups:
    """The process groups over which plain parameters differ; a DTensor knows its own.

    process_group: one or several process groups, whose processes all hold different parameters (a pipeline); or a
    mapping of glob patterns of parameter names to such groups (experts), where all other parameters are the same on
    every process.
    """

    def __init__(self, process_group: Any):
        if process_group is None:
            process_group = {}
        elif not isinstance(process_group, Mapping):
            process_group = {"*": process_group}
        self._groups: dict[str, Groups] = {
            pattern: tuple(groups) if isinstance(groups, Iterable) else (groups,)
            for pattern, groups in process_group.items()
        }

    def __bool__(self) -> bool:
        return bool(self._groups)

    def partition(self, names: Sequence[str]) -> list[tuple[tuple[int, ...], Groups]]:
        """Assigns the index of each name to the first pattern that matches it, with its groups; the rest to no group.

        Raises UnmatchedPatternError for a pattern other than "*" that matches no name.
        """
        rest, parts = list(range(len(names))), []
        for pattern, groups in self._groups.items():
            matching = [index for index in rest if fnmatchcase(names[index], pattern)]
            if not matching and pattern != "*":
                raise UnmatchedPatternError("process_group", pattern, names)
            parts.append((tuple(matching), groups))
            rest = [index for index in rest if not fnmatchcase(names[index], pattern)]
        return [*parts, (tuple(rest), ())]
