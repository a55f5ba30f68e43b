"""Parameters that lie in pieces on several processes (DTensor: FSDP2, tensor parallelism).

Every process measures and scales its own pieces; the norms of the pieces are gathered and put together to
those of the wholes, by the same arithmetic on every process, so that all of them scale by the same factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradclip.norms import combine

Groups = tuple[Any, ...]  # the process groups over which a tensor is cut; none for one that is whole on every process


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; asked without importing torch.distributed."""
    return hasattr(tensor, "device_mesh")


def groups_of(tensor: Any) -> Groups:
    """The process groups over which a tensor is cut, one for each dimension of its device mesh that cuts it."""
    if not is_sharded(tensor):
        return ()
    mesh = tensor.device_mesh
    cut = [dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    return tuple(mesh.get_group(dim) for dim in cut if mesh.size(dim) > 1)


def piece(tensor: Any) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    local: Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor.detach()
    return local


def as_placed(gradient: Any, parameter: Any) -> Any:
    """A gradient that is cut as its parameter is; one that is still a sum in parts is summed."""
    if gradient.placements == parameter.placements:
        return gradient
    return gradient.redistribute(placements=parameter.placements)


def rows_of(tensor: Any) -> Tensor | None:
    """[rows of the piece]: their numbers in the whole tensor; None where the piece has all rows, each at its place."""
    if not is_sharded(tensor):
        return None
    from torch.distributed.tensor import Replicate, distribute_tensor

    along_rows = [placement if placement.is_shard(0) else Replicate() for placement in tensor.placements]
    numbers = torch.arange(tensor.shape[0], device=piece(tensor).device)
    # Without a source rank every process cuts its own copy, and nothing is sent.
    spread: Any = distribute_tensor(numbers, tensor.device_mesh, along_rows, src_data_rank=None)
    return piece(spread)


class Gathered:
    """Puts figures of pieces together to figures of wholes, an entry at a time. entries: each one's groups."""

    def __init__(self, entries: Sequence[Groups]):
        parts: dict[Groups, list[int]] = {}
        for place, groups in enumerate(entries):
            if groups:
                parts.setdefault(groups, []).append(place)
        self._parts = {groups: torch.tensor(found) for groups, found in parts.items()}

    def whole(self, figures: Tensor, p: float) -> Tensor:
        """[entries]: the p-norms of the wholes from those of this process's pieces; with p = 1, sums."""
        for groups, places in self._parts.items():
            self._parts[groups] = places = places.to(figures.device)
            found = figures[places]
            for group in groups:
                found = combine(_gather(found, group), p)
            figures = figures.index_copy(0, places, found)
        return figures


def _gather(figures: Tensor, group: Any) -> Tensor:
    """[processes, entries]"""
    from torch import distributed

    rows = [torch.empty_like(figures) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(rows, figures, group=group)
    return torch.stack(rows)
