"""Counts what one `clip()` costs for every policy and scope: `python evidence/library_costs.py`.

Writes the table in src/gradclip/README.md. Nothing is timed: the elements that every operation reads and writes are
counted (evidence/accesses.py). The counts for an accelerator are those for tensors on torch's meta device: they have no
values, so that nothing can depend on one. Collectives are counted in two processes with gloo.
"""

import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed, nn
from torch.nn import Parameter

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from evidence.accesses import Accesses
from evidence.common import in_processes
from gradclip import BlockPolicy, ClipByNorm, ClipByValue, Clipper, Policy

PAGE = Path(__file__).parents[1] / "src" / "gradclip" / "README.md"
HEAD = ["policy", "scope", "CPU, nothing exceeds", "CPU, all blocks exceed", "accelerator", "collectives", "state",
        "copies to the host"]  # fmt: skip
SHAPE = (128, 512)  # of every gradient: not stacked with others, and with rows that are long against one number
LINKS = "`value`, then `norm`"  # what is measured of the policy `chain`, in place of a scope
WITHIN, BEYOND = 1e-4, 1.0  # the size of elements that exceed no limit, and of those that exceed every limit
WARM_UP = 2  # steps before the one that is counted
FIELDS: dict[str, dict[str, Any]] = {
    "norm": {"max": 1.0},
    "value": {"max": 0.01},
    "rms": {"max": 0.01},
    "drop": {"max": 1.0},
    "zclip": {"max": None},
    "chain": {"links": {"elements": ClipByValue(max=0.01), "whole": ClipByNorm(max=1.0)}},
}
Case = tuple[str, str]  # the name of a policy, and its scope or that of a chain's links
SIZES = {4: "P", 12: "3P", 14: "U"}  # numbers per collective, for the 4 parameters and 14 units of `small_model`


class Costs(NamedTuple):
    """What one `clip()` costs.

    reads, writes: passes over the gradients. other_reads, other_writes: over all other tensors, in the same unit.
    copies: values that the host reads. per_block, per_element: the size of the policy's memory, in numbers.
    """

    reads: int
    writes: int
    other_reads: int
    other_writes: int
    copies: int
    per_block: int
    per_element: int


def main(arguments: list[str] | None = None) -> None:
    args = pages.parser(__doc__, PAGE).parse_args(arguments)
    sharded = {case: collectives_cell(sent) for case, sent in collectives()["sharded"].items()}
    found = {case: [*before, sharded[case], state, copies] for case, (*before, state, copies) in cells().items()}
    pages.write(args.page, {"costs": pages.table(HEAD, rows(found))})


def cases() -> dict[Case, Policy]:
    """Every policy at every scope that it takes."""
    found: dict[Case, Policy] = {}
    for name, kind in Policy.options.items():
        policy = kind(**FIELDS.get(name, {}))
        policy = replace(policy, warmup=1) if hasattr(policy, "warmup") else policy
        scopes = policy.scopes if isinstance(policy, BlockPolicy) else ()
        found |= {(name, scope): replace(policy, scope=scope) for scope in scopes} or {(name, LINKS): policy}
    return found


def clip(
    model: nn.Module, policy: Policy, size: float, process_group: Any = None
) -> tuple[Clipper, Accesses, set[bool]]:
    """Clips a few steps with elements of the size WITHIN, and counts one more with elements of another size.

    Returns the Clipper, the counts, and whether blocks exceeded their limits.
    """
    weights = list(model.parameters())
    optimizer = torch.optim.SGD([{"params": weights[:2]}, {"params": weights[2:]}], lr=0.1)
    clipper = Clipper(model, policy, optimizer=optimizer, process_group=process_group)
    for step in range(WARM_UP + 1):
        for weight in weights:
            weight.grad = weight.detach() * (WITHIN if step < WARM_UP else size)
        with Accesses([weight.grad for weight in weights if weight.grad is not None]) as accesses:
            report = clipper.clip()
    return clipper, accesses, set() if report.limited.is_meta else set(report.limited.tolist())


def costs(policy: Policy, device: str, size: float = WITHIN, dtype: torch.dtype = torch.float32) -> Costs:
    """Counts one `clip()` on a device.

    Raises ValueError if blocks were not limited as the size of the elements says, or a count is not a whole number of
    passes.
    """
    torch.manual_seed(0)
    layers = [[Parameter(torch.randn(SHAPE, device=device).to(dtype)) for _ in range(2)] for _ in range(2)]
    model = nn.ModuleList([nn.ParameterList(parameters) for parameters in layers])
    clipper, accesses, limited = clip(model, policy, size)
    if policy.kind not in ("measure", "rescale") and device == "cpu" and limited != {size == BEYOND}:
        raise ValueError(f"{policy}: its blocks are not limited as elements of the size {size} should be")
    total = sum(parameter.numel() for parameter in model.parameters())
    passes = [accesses.elements[access, own] / total for own in (True, False) for access in ("read", "write")]
    if any(abs(each - round(each)) > 0.2 for each in passes):
        raise ValueError(f"{policy}: {passes} are not whole passes")
    reads, writes, other_reads, other_writes = map(round, passes)
    return Costs(reads, writes, other_reads, other_writes, accesses.copies, *memory(clipper))


def memory(clipper: Clipper) -> tuple[int, int]:
    """The numbers that the policies' memories hold per block, and per element of the gradients."""
    per_block = per_element = 0
    for state in clipper.state_dict().values():
        per_block += sum(tensor.numel() // len(state["blocks"]) for tensor in state["memory"].values())
        for each in state["elements"].values():
            per_element = max(per_element, sum(tensor.dim() > 0 for tensor in each.values()))
    return per_block, per_element


def cells() -> dict[Case, list[str]]:
    """The cells of every policy and scope that one process can count, all but the collectives."""
    found = {}
    for case, policy in cases().items():
        within, beyond, device = costs(policy, "cpu"), costs(policy, "cpu", BEYOND), costs(policy, "meta")
        counts = {"per block": device.per_block, "per element": device.per_element}
        state = ", ".join(f"{count:,} {unit}" for unit, count in counts.items() if count)
        found[case] = [*map(accesses_cell, (within, beyond, device)), state or "none", str(device.copies)]
    return found


def accesses_cell(costs: Costs) -> str:
    """Reads / writes of the gradients, each with those of other tensors after a plus if there are any."""
    pairs = (costs.reads, costs.other_reads), (costs.writes, costs.other_writes)
    return " / ".join(f"{own} + {other}" if other else f"{own}" for own, other in pairs)


def collectives_cell(sent: Sequence[tuple[str, int]]) -> str:
    """The number of collectives, and the numbers that a process sends in each; raises ValueError unless all gather."""
    if {name for name, _ in sent} != {"allgather_"}:
        raise ValueError(f"not only all-gathers: {sent}")
    return f"{len(sent)}: {', '.join(SIZES[size] for _, size in sent)}"


def rows(found: dict[Case, list[str]]) -> list[list[str]]:
    """The rows of the table, cheapest on an accelerator first: policies and scopes with equal cells have one row."""
    scopes: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)  # by the policy and its cells
    for (name, scope), listed in found.items():
        scopes[name, *listed].append(scope)
    names: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)  # by the scopes and their cells
    for (name, *listed), together in scopes.items():
        names[", ".join(together), *listed].append(f"`{name}`")
    merged = [[", ".join(together), *row] for row, together in names.items()]
    return sorted(
        merged, key=lambda row: [sum(map(int, re.findall("[0-9]+", row[n].replace(",", "")))) for n in (4, 5, 6)]
    )


def collectives() -> dict[str, dict[Case, list[tuple[str, int]]]]:
    """The collectives of one `clip()` that limits every block, by the distribution of the parameters: their names, and
    how many numbers each process sends. Raises ValueError if two processes do not call the same."""
    with tempfile.TemporaryDirectory() as folder:
        one, other = in_processes(count_collectives, [(rank, f"{folder}/store") for rank in range(2)])
    if one != other:
        raise ValueError("the processes call different collectives")
    return one


def count_collectives(job: tuple[int, str]) -> dict[str, dict[Case, list[tuple[str, int]]]]:
    """Counts the collectives in one of two processes. job: its rank, and the file by which the processes meet."""
    rank, path = job
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=2)
    found = {
        distribution: {
            case: clip(small_model(distribution), policy, BEYOND, group)[1].collectives
            for case, policy in cases().items()
        }
        for distribution, group in {"sharded": None, "replicated": None, "pipeline": distributed.group.WORLD}.items()
    }
    distributed.barrier()
    distributed.destroy_process_group()
    return found


def small_model(distribution: str) -> nn.Module:
    """A model with 4 parameters and 14 units: sharded by FSDP2, replicated as DTensors, or of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_module

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    if distribution == "sharded":
        for layer in model:
            fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    elif distribution == "replicated":
        distribute_module(model, init_device_mesh("cpu", (2,)))
    return model


if __name__ == "__main__":
    main()
