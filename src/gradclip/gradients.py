"""The parameters of a Clipper and their gradients, read at each call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import Parameter

from gradclip.distributed import (
    Groups,
    ParameterGroups,
    gather,
    gather_norms,
    is_dtensor,
    local_tensor,
    redistribute_gradients,
    shard_groups,
)
from gradclip.errors import InvalidField, UnmatchedPatternError
from gradclip.norms import combine, combine_groups, index_tensor, is_host, tensor_norms, wide_dtype

PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass
class Gradients:
    """Parameters and their gradients at one call, one entry per parameter, a tied one once.

    tensors: the gradients as dense tensors that share the gradients' memory, None for a missing one; for a DTensor the
        local shard, for a sparse gradient its coalesced values.
    module: the model, None if only a list of parameters was given.
    shards: the process groups over which each parameter is sharded. partition: indices of parameters with the process
        groups over which these parameters differ. Both are empty in a single process.
    """

    names: tuple[str, ...]
    parameters: list[Parameter]
    tensors: list[Tensor | None]
    module: nn.Module | None = None
    shards: list[Groups] = field(default_factory=list)
    partition: list[tuple[tuple[int, ...], Groups]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.indices = [index for index, tensor in enumerate(self.tensors) if tensor is not None]
        devices = list(dict.fromkeys([parameter.device for parameter in self.parameters]))
        # A parameter on the meta device has no values, but gradients on other devices can still be read.
        devices = [device for device in devices if device.type != "meta"] or devices
        self.device = self.parameters[self.indices[0]].device if self.indices else devices[0]
        self.on_host = all(map(is_host, devices))

    def norms(self, p: float = 2.0) -> Tensor:
        """The p-norm of each gradient, [parameters]; 0 for a missing one."""
        return self.norms_of(self.tensors, p)

    def norms_of(self, tensors: Sequence[Tensor | None], p: float) -> Tensor:
        """The p-norm of each tensor, [parameters], over all its shards; 0 for None.

        tensors: [parameters], local shards of those parameters that are sharded.
        """
        present = [tensor for tensor in tensors if tensor is not None]
        if len(present) == len(tensors):
            norms = tensor_norms(present, p)
        else:
            zero = torch.zeros((), dtype=wide_dtype(self.device), device=self.device)
            measured = iter(tensor_norms(present, p).to(self.device).unbind() if present else ())
            norms = torch.stack([zero if tensor is None else next(measured) for tensor in tensors])
        return gather_norms(norms, self.shards, p) if self.shards else norms

    def element_counts(self) -> Tensor:
        """The number of elements of each gradient, [parameters]; 0 if no process has it.

        A sharded or sparse gradient counts as many elements as its whole parameter.
        """
        wide = wide_dtype(self.device)
        zero = torch.zeros((), dtype=wide, device=self.device)
        present = torch.stack([zero if tensor is None else zero + 1 for tensor in self.tensors])
        present = gather_norms(present, self.shards, math.inf) if self.shards else present
        return present * index_tensor(tuple(p.numel() for p in self.parameters), self.device)

    def weights(self) -> list[Tensor | None]:
        """The local tensor of each parameter that requires or has a gradient, [parameters]; None for the others."""
        pairs = zip(self.parameters, self.tensors, strict=True)
        return [local_tensor(p) if p.requires_grad or tensor is not None else None for p, tensor in pairs]

    def total(self, norms: Tensor, p: float = 2.0, chosen: Sequence[int] | None = None) -> Tensor:
        """Combines norms over parameters and processes into the p-norm of all of them together, 0-d.

        norms: [parameters]. chosen: the indices of the parameters to combine; None for all.
        """
        if self.partition:
            members = range(len(norms)) if chosen is None else set(chosen)
            block_of = [0 if index in members else None for index in range(len(norms))]
            return self.over_processes(norms, block_of, 1, p).view(())
        if chosen is not None and len(chosen) < len(norms):
            norms = norms[index_tensor(tuple(chosen), norms.device)]
        return combine(norms, p)

    def over_processes(self, norms: Tensor, block_of: Sequence[int | None], count: int, p: float) -> Tensor:
        """The p-norms of blocks of parameters, over all processes, [count].

        norms: [parameters]. block_of: [parameters], the index of each parameter's block; None for no block.
        """
        parts = []
        for indices, groups in self.partition:
            chosen = tuple(index for index in indices if block_of[index] is not None)
            blocks = tuple(block for index in chosen if (block := block_of[index]) is not None)
            local = norms[index_tensor(chosen, norms.device)]
            parts.append(gather(combine_groups(local, index_tensor(blocks, norms.device), count, p), groups, p))
        return combine(torch.stack(parts), p)

    def zero_nonfinite(self) -> None:
        """Sets nan and infinite elements to 0, in place."""
        for tensor in self.tensors:
            if tensor is not None:
                tensor.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)

    def zero_if(self, flag: Tensor) -> None:
        """Sets all gradients to 0, in place, if the 0-d flag is set; the flag is not read from the device."""
        for tensor in self.tensors:
            if tensor is not None:
                tensor.masked_fill_(flag.to(tensor.device), 0)  # nan times 0 would stay nan

    def ids(self) -> list[int]:
        """The `id` of each gradient, [parameters], by which a replaced tensor is detected."""
        return [id(parameter.grad) for parameter in self.parameters]


class Parameters:
    """The source of the gradients: a module, whose parameters are looked up at each call, or named parameters."""

    def __init__(self, source: nn.Module | Iterable[tuple[str, Parameter]], process_group: Any = None):
        self._module = source if isinstance(source, nn.Module) else None
        self._listed = [] if isinstance(source, nn.Module) else _listed(source)
        self._groups = ParameterGroups(process_group)
        self._names: tuple[str, ...] = ()  # with wrappers, from the last call
        self._parallel: tuple[str, ...] = ()  # names of (Distributed)DataParallel modules

    def read(self, *, with_gradients: bool = True) -> Gradients:
        """Reads all parameters and their gradients.

        with_gradients: False reads the parameters alone, and calls no collective. Raises ValueError if there are no
        parameters.
        """
        named = self._named()
        if not named:
            raise ValueError("the Clipper has no parameters; an iterator can be read only once")
        names = tuple([name for name, _ in named])
        if names != self._names and self._module is not None:
            self._parallel = tuple([name for name, m in self._module.named_modules() if isinstance(m, PARALLEL)])
        if names != self._names:
            refuse_fsdp1(names)
        self._names = names
        names = plain_names(names, self._parallel)
        parameters = [parameter for _, parameter in named]
        sharded = any(type(p) is not Parameter and is_dtensor(p) for p in parameters)
        if sharded and with_gradients:
            redistribute_gradients(parameters)
        tensors = [_dense(parameter) if with_gradients else None for parameter in parameters]
        gradients = Gradients(names, parameters, tensors, self._module)
        if sharded:
            gradients.shards = [shard_groups(p) if is_dtensor(p) else () for p in parameters]
        if self._groups:
            gradients.partition = self._groups.partition(names)
        return gradients

    def _named(self) -> list[tuple[str, Parameter]]:
        if self._module is None:
            return self._listed
        return list(self._module.named_parameters())


def _listed(source: Iterable[tuple[str, Parameter]]) -> list[tuple[str, Parameter]]:
    seen: dict[int, tuple[str, Parameter]] = {}
    if not isinstance(source, Iterable) or isinstance(source, (str, Mapping)):
        raise TypeError(f"Clipper takes a module or named_parameters(), not {type(source).__name__}")
    for pair in source:
        if isinstance(pair, Tensor):
            raise TypeError("Clipper takes a module or named_parameters(), whose names it reports, not parameters()")
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor)):
            raise TypeError(f"Clipper takes a module or named_parameters(), not {type(source).__name__}")
        seen.setdefault(id(pair[1]), pair)
    return list(seen.values())


def _dense(parameter: Parameter) -> Tensor | None:
    """The gradient as a dense local tensor that shares its memory; a sparse gradient is coalesced in place first."""
    gradient = parameter.grad
    if gradient is None:
        return None
    if gradient.is_sparse:
        if not gradient.is_coalesced():
            parameter.grad = gradient = gradient.coalesce()
        return gradient.values()
    return gradient if type(gradient) is Tensor else local_tensor(gradient)


@lru_cache(maxsize=16)
def plain_names(names: tuple[str, ...], parallel: tuple[str, ...]) -> tuple[str, ...]:
    """Removes the components that torch.compile, FSDP, activation checkpointing and DDP add to parameter names.

    parallel: the names of DDP modules, below which `module.` is removed; it is also removed if all names begin with it.
    Raises ValueError if two parameters then have the same name.
    """
    for prefix in (f"{name}." if name else "" for name in parallel):
        wrapped = prefix + "module."
        names = tuple(prefix + name.removeprefix(wrapped) if name.startswith(wrapped) else name for name in names)
    plain = tuple(".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names)
    if all(name.startswith("module.") for name in plain):
        plain = tuple(name.removeprefix("module.") for name in plain)
    if len(set(plain)) < len(plain):
        duplicate = next(name for index, name in enumerate(plain) if name in plain[:index])
        raise ValueError(f"two parameters have the name {duplicate}; give them prefixes, as named_parameters(prefix=…)")
    return plain


def refuse_fsdp1(names: Sequence[str]) -> None:
    """Raises TypeError for names under FullyShardedDataParallel, whose parameters are flat shards without a shape.

    Without a process group such names come from a saved model, and pass.
    """
    grouped = distributed.is_available() and distributed.is_initialized()
    if grouped and any("_fsdp_wrapped_module" in name for name in names):
        raise TypeError("FullyShardedDataParallel (FSDP1) hides the parameters; shard with FSDP2's fully_shard instead")


@lru_cache(maxsize=64)
def select(
    names: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...], partial: bool
) -> tuple[int, ...]:
    """Selects the indices of the names that match any of `include` (empty: all) and none of `exclude`.

    partial: whether other processes hold other names, which a pattern may match instead. Unless partial, raises
    UnmatchedPatternError for a pattern that matches no name, and InvalidField if no name is selected.
    """
    for side, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not partial and not any(fnmatchcase(name, pattern) for name in names):
                raise UnmatchedPatternError(side, pattern, names)

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    chosen = tuple(
        index
        for index, name in enumerate(names)
        if (not include or matches(name, include)) and not matches(name, exclude)
    )
    if not chosen and not partial:
        raise InvalidField("exclude", list(exclude), "patterns that leave at least one parameter to clip")
    return chosen
