"""On several processes with meshes, groups and missing gradients: as one process that holds everything."""

import gc
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from gradclip import Chain, ClipByNorm, Clipper, ClipReport, NonFiniteGradientError, Policy, functional
from tests.gradclip.test_sharded import cases, network, whole
from tests.support import policy_id

Record = dict[str, Any]
Named = dict[str, nn.Parameter]
STEPS = 3


def setup(rank: int, processes: int, port: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"tcp://localhost:{port}", rank=rank, world_size=processes, timeout=timedelta(seconds=60)
    )


def batch(step: int) -> Tensor:
    return (step + 1) * torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def clipper_of(source: Any, policy: Policy, named: Mapping[str, nn.Parameter], **settings: Any) -> Clipper:
    """With an optimizer of two groups: those of weights and of biases."""
    weights = [parameter for name, parameter in named.items() if name.endswith("weight")]
    biases = [parameter for name, parameter in named.items() if not name.endswith("weight")]
    optimizer = torch.optim.SGD([{"params": weights}, {"params": biases}], lr=0.1)
    return Clipper(source, policy, optimizer=optimizer, **settings)


def record(clipper: Clipper, report: ClipReport, named: Named) -> Record:
    parameters = clipper._parameters.read(with_gradients=False)
    labels = [label for runner in clipper._runners.values() for label in runner.blocks(parameters).labels]
    return {
        "before": report.before,
        "after": report.after,
        "dropped": report.dropped,
        "blocks": dict(zip(labels, zip(report.norms.tolist(), report.limits.tolist(), strict=True), strict=True)),
        "gradients": {name: whole(parameter.grad) for name, parameter in named.items() if parameter.grad is not None},
    }


def steps(policy: Policy, model: nn.Module, part: int, parts: int) -> list[Record]:
    """A few steps without an optimizer's on a share of the batches."""
    named = dict(model.named_parameters())
    clipper, records = clipper_of(model, policy, named), []
    for step in range(STEPS):
        model.zero_grad()
        model(batch(step).chunk(parts)[part]).square().mean().backward()
        report = clipper.clip()
        clipper.check()
        records.append(record(clipper, report, named))
    return records


# -- meshes


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in model.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def tensor_parallel(model: nn.Module, mesh: Any) -> nn.Module:
    """The first layer by its outputs, the second by its inputs; the third is the same on every process."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def wide_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def on_meshes(rank: int, those: list[Policy]) -> dict[str, dict[str, list[Record]]]:
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    data = mesh.get_local_rank("data")
    ways: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
        "HSDP": (lambda: shard(wide_network(), mesh), rank, 4),
        "tensor parallelism": (lambda: tensor_parallel(wide_network(), mesh["tensor"]), 0, 1),
        "FSDP2 with tensor parallelism": (
            lambda: shard(tensor_parallel(wide_network(), mesh["tensor"]), mesh["data"]), data, 2
        ),
    }  # fmt: skip
    return {
        way: {policy_id(policy): steps(policy, make(), part, parts) for policy in those}
        for way, (make, part, parts) in ways.items()
    }


# -- groups of processes that hold different parameters


def stages() -> Named:
    """A pipeline of two stages, by the rank that its names begin with, with gradients for a few steps."""
    torch.manual_seed(4)
    shapes = {"0.a.weight": (4, 3), "0.a.bias": (4,), "0.b.weight": (5, 4), "1.c.weight": (2, 5), "1.c.bias": (2,)}
    return {name: nn.Parameter(torch.randn(shape, dtype=torch.float64)) for name, shape in shapes.items()}


def experts() -> Named:
    """One expert on each rank, and a router that is the same on both."""
    torch.manual_seed(5)
    shapes = {"router.weight": (2, 3), "router.bias": (2,), "0.expert.weight": (4, 3), "1.expert.weight": (3, 3)}
    return {name: nn.Parameter(torch.randn(shape, dtype=torch.float64)) for name, shape in shapes.items()}


def give_gradients(named: Named, step: int) -> None:
    for name, parameter in named.items():
        number = sum(map(ord, name))
        random = torch.Generator().manual_seed(100 * step + number)
        parameter.grad = (step + 1 + number % 2) * torch.randn(parameter.shape, dtype=torch.float64, generator=random)


def held(named: Named, rank: int) -> Named:
    return {name: p for name, p in named.items() if name[0] in (str(rank), "r")}


def clipped(policy: Policy, named: Named, **settings: Any) -> list[Record]:
    clipper, records = clipper_of(list(named.items()), policy, named, **settings), []
    for step in range(STEPS):
        give_gradients(named, step)
        report = clipper.clip()
        clipper.check()
        records.append(record(clipper, report, named))
    return records


def in_groups(rank: int, those: list[Policy]) -> dict[str, Any]:
    group = distributed.new_group([0, 1])
    found: dict[str, Any] = {
        "pipeline": {policy_id(p): clipped(p, held(stages(), rank), process_group=group) for p in those},
        "experts": {
            policy_id(p): clipped(p, held(experts(), rank), process_group={"?.expert.*": [group]}) for p in those
        },
        "nonfinite": {mode: nonfinite(mode, rank, group) for mode in ("error", "drop", "zero")},
    }
    own = held(stages(), rank)
    give_gradients(own, 0)
    norm = functional.clip_grad_norm_(own.values(), 0.5, process_group=group)
    found["functional"] = {"norm": norm, "gradients": {name: p.grad for name, p in own.items()}}
    return found


def nonfinite(mode: str, rank: int, group: Any) -> Any:
    """What a process does where the gradient of the other one has a nan."""
    own = held(stages(), rank)
    clipper = Clipper(own.items(), ClipByNorm(max=0.5, nonfinite=mode), process_group=group)
    give_gradients(own, 0)
    if rank == 1:
        own["1.c.bias"].grad[0] = math.nan
    try:
        report = clipper.clip()
    except NonFiniteGradientError as error:
        return error.names, str(error)
    return report.dropped, report.before.item(), report.after.item()


# -- gradients that are missing on one process


@contextmanager
def collectives(seen: list[Any]) -> Iterator[None]:
    """Notes which collectives the library calls, with the shapes of what they send."""
    real = {name: getattr(distributed, name) for name in ("all_gather", "all_reduce")}

    def noting(name: str) -> Callable[..., Any]:
        def called(*arguments: Any, **settings: Any) -> Any:
            sent = arguments[1] if name == "all_gather" else arguments[0]
            seen.append((name, list(sent.shape)))
            return real[name](*arguments, **settings)

        return called

    try:
        for name in real:
            setattr(distributed, name, noting(name))
        yield
    finally:
        for name, function in real.items():
            setattr(distributed, name, function)


NAMES = [name for name, _ in network().named_parameters()]
# By step and rank: a whole step, one in which each process lacks others, and one in which a process has none at all.
LACKING: list[list[list[str]]] = [[[], []], [["0.weight"], ["2.bias", "4.weight"]], [[], NAMES]]


def missing(policy: Policy, rank: int) -> Record:
    """Steps in which a process lacks gradients, with the collectives of each."""
    model = shard(network(), None)
    named = dict(model.named_parameters())
    clipper = clipper_of(model, policy, named)
    found: Record = {"collectives": [], "records": []}
    for names in LACKING:
        model.zero_grad()
        model(batch(0).chunk(2)[rank]).square().mean().backward()
        for name in names[rank]:
            named[name].grad = None
        seen: list[Any] = []
        with collectives(seen):
            report = clipper.clip()
        clipper.check()
        for name in names[rank]:  # whole gradients are made of all shards
            named[name].grad = torch.zeros_like(named[name])
        found["collectives"].append(seen)
        found["records"].append(record(clipper, report, named))
    return found


def with_zeros(policy: Policy) -> list[Record]:
    """The same on one process, with zeros for the rows that a process lacks."""
    model = network()
    named = dict(model.named_parameters())
    clipper, records = clipper_of(model, policy, named), []
    for names in LACKING:
        model.zero_grad()
        model(batch(0)).square().mean().backward()
        for rank, lacking in enumerate(names):
            for name in lacking:
                rows = named[name].grad.chunk(2)
                if rank < len(rows):  # of a single row the second process holds nothing
                    rows[rank].zero_()
        records.append(record(clipper, clipper.clip(), named))
    return records


def partly_replicated(rank: int) -> Tensor:
    """A replicated parameter whose gradient is a partial sum on one process and missing on the other."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    parameter = nn.Parameter(distribute_tensor(torch.zeros(2, dtype=torch.float64), mesh, [Replicate()]))
    if rank == 0:
        parameter.grad = DTensor.from_local(torch.tensor([3.0, 4.0], dtype=torch.float64), mesh, [Partial()])
    clipper = Clipper([("p", parameter)], ClipByNorm(max=1.0))
    clipper.clip()
    clipper.check()
    return whole(parameter.grad)


def partly_sharded(rank: int) -> Tensor:
    """The same of a parameter that is replicated over one dimension of its mesh and sharded over the other."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 1))
    placements = [Replicate(), Shard(0)]
    parameter = nn.Parameter(distribute_tensor(torch.zeros(2, dtype=torch.float64), mesh, placements))
    if rank == 0:
        parameter.grad = DTensor.from_local(torch.tensor([3.0, 4.0], dtype=torch.float64), mesh, [Partial(), Shard(0)])
    clipper = Clipper([("p", parameter)], ClipByNorm(max=1.0))
    clipper.clip()
    clipper.check()
    return whole(parameter.grad)


def fsdp1() -> list[str]:
    """What is said of FullyShardedDataParallel, before and after a Clipper was made."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    said = []
    model = nn.Sequential(nn.Linear(3, 3))
    clipper = Clipper(model, ClipByNorm(max=1.0))
    model[0] = FullyShardedDataParallel(model[0], device_id=torch.device("cpu"), use_orig_params=True)
    for attempt in (clipper.clip, lambda: Clipper(model, ClipByNorm(max=1.0))):
        with pytest.raises(TypeError) as error:
            attempt()
        said.append(str(error.value))
    return said


# -- what runs on each process, and what is expected of it


def two(rank: int, port: int, folder: str, those: list[Policy]) -> None:
    setup(rank, 2, port)
    found = in_groups(rank, those) | {
        "missing": {policy_id(policy): missing(policy, rank) for policy in those},
        "partly replicated": partly_replicated(rank),
        "partly sharded": partly_sharded(rank),
        "FSDP1": fsdp1(),
    }
    finish(found, Path(folder) / f"{rank}.pt")


def four(rank: int, port: int, folder: str, those: list[Policy]) -> None:
    setup(rank, 4, port)
    finish(on_meshes(rank, those), Path(folder) / f"{rank}.pt")


def finish(found: Record, path: Path) -> None:
    """Saves what a process found and ends its group; models that hold hooks of it go first, or gloo may abort."""
    torch.save(found, path)
    distributed.barrier()
    gc.collect()
    distributed.destroy_process_group()


def run(worker: Callable[..., None], processes: int, folder: Path) -> list[Any]:
    """What the processes found, by their rank."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder), cases()), nprocs=processes)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


def assert_equal(found: Record, expected: Record, *, chain: bool = False) -> None:
    """The same figures, and the gradients and blocks that the process holds. A chain's blocks have no single label."""
    assert found["dropped"] == expected["dropped"]
    for name in ("before", "after"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-300)
    for name, gradient in found["gradients"].items():
        torch.testing.assert_close(gradient, expected["gradients"][name], rtol=1e-11, atol=1e-300)
    for label, figures in ({} if chain else found["blocks"]).items():
        assert figures == pytest.approx(expected["blocks"][label], rel=1e-11, abs=1e-300), label


def test_meshes_of_four_processes(tmp_path: Path, subtests: pytest.Subtests) -> None:
    found = run(four, 4, tmp_path)
    for policy in cases():
        name = policy_id(policy)
        alone = steps(policy, wide_network(), 0, 1)
        for way in found[0]:
            with subtests.test(policy=name, way=way):
                for one, other in zip(found[0][way][name], alone, strict=True):
                    assert_equal(one, other, chain=isinstance(policy, Chain))
                for rank in (1, 2, 3):  # to the last bit, or the processes would drift apart
                    torch.testing.assert_close(found[rank][way][name], found[0][way][name], rtol=0, atol=0)


def test_groups_and_missing_gradients_of_two_processes(tmp_path: Path, subtests: pytest.Subtests) -> None:
    found = run(two, 2, tmp_path)
    for policy in cases():
        name = policy_id(policy)
        for way, make in (("pipeline", stages), ("experts", experts)):
            whole_model = clipped(policy, make())
            with subtests.test(policy=name, way=way):
                for rank in (0, 1):
                    for one, other in zip(found[rank][way][name], whole_model, strict=True):
                        assert_equal(one, other, chain=isinstance(policy, Chain))
        with subtests.test(policy=name, way="missing"):
            one, other = (found[rank]["missing"][name] for rank in (0, 1))
            first, *rest = one["collectives"]
            assert first
            assert all(each == first for each in (*rest, *other["collectives"]))
            torch.testing.assert_close(one["records"], other["records"], rtol=0, atol=0)
            # What is remembered of an element stays where its gradient is missing, and shrinks where it is 0.
            kept = one["records"][:2] if policy.name == "spike" else one["records"]
            for here, alone in zip(kept, with_zeros(policy)[: len(kept)], strict=True):
                assert_equal(here, alone, chain=isinstance(policy, Chain))
    with subtests.test("non-finite"):
        modes = [found[rank]["nonfinite"] for rank in (0, 1)]
        assert modes[0]["error"] == ([], "non-finite gradient in a parameter of another process")
        assert modes[1]["error"] == (["1.c.bias"], "non-finite gradient in 1.c.bias")
        for mode in ("drop", "zero"):
            assert modes[0][mode][0] == modes[1][mode][0] == (mode == "drop")
        assert modes[0]["zero"] == modes[1]["zero"]
        assert modes[0]["zero"][2] == pytest.approx(0.5)
    with subtests.test("functional"):
        named = stages()
        give_gradients(named, 0)
        total = torch.nn.utils.clip_grad_norm_(named.values(), 0.5)
        for rank in (0, 1):
            assert found[rank]["functional"]["norm"].item() == pytest.approx(total.item(), rel=1e-11)
            for name, gradient in found[rank]["functional"]["gradients"].items():
                torch.testing.assert_close(gradient, named[name].grad, rtol=1e-5, atol=0)  # torch adds 1e-6
    for way in ("partly replicated", "partly sharded"):
        with subtests.test(way):
            for rank in (0, 1):
                assert found[rank][way].tolist() == pytest.approx([0.6, 0.8])
    with subtests.test("FSDP1"):
        for rank in (0, 1):
            assert all("shard with FSDP2's fully_shard instead" in said for said in found[rank]["FSDP1"])
