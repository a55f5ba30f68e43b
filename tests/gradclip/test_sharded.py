"""Clipping on several processes, sharded, replicated or with different parameters, equals that of one process."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradclip import AGC, BlockPolicy, Chain, ClipByNorm, Clipper, ClipReport, NonFiniteGradientError, Policy
from gradclip.functional import clip_grad_norm_
from tests.gradclip.support import pairs, tensors_in
from tests.support import policy_id, scope_of

STEPS = 4
LIMIT = 60  # seconds that a process may wait for another one
PRELOADED = ["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch._dynamo"]
Record = dict[str, Any]
Wrap = Callable[[nn.Module], nn.Module]
Gradients = list[Tensor | None]


def quick(policy: Policy) -> Policy:
    """The policy with limits that take effect within a few steps."""
    if isinstance(policy, Chain):
        return policy
    policy = replace(policy, warmup=2) if hasattr(policy, "warmup") else policy
    policy = replace(policy, theta=2.0) if policy.name == "spike" else policy
    policy = replace(policy, initial=0.02) if policy.name == "quantile" else policy
    low = {"norm": 0.1, "value": 0.02, "rms": 0.01, "drop": 0.5}
    return replace(policy, max=low[policy.name]) if policy.name in low else policy


def cases() -> list[Policy]:
    """The policies, which are composed once and sent to the processes, since composing is slow."""
    return [quick(policy) for policy in pairs()]


def network(hidden: int = 5) -> nn.Sequential:
    """A network of odd sizes: shards are uneven, and one process holds none of the last layer."""
    torch.manual_seed(1)
    layers = [nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3), nn.Tanh(), nn.Linear(3, 1)]
    return nn.Sequential(*layers).double()


def convolutions() -> nn.Sequential:
    """A transposed convolution, with outputs in dimension 1, and a depthwise one."""
    torch.manual_seed(1)
    return nn.Sequential(nn.ConvTranspose1d(1, 5, 2), nn.Tanh(), nn.Conv1d(5, 5, 3, groups=5)).double()


def steps(policy: Policy, wrap: Wrap, rank: int, processes: int) -> list[Record]:
    """Takes a few steps on this process's part of the batches; returns the reports and the whole gradients."""
    model = wrap(network())
    parameters = dict(model.named_parameters())
    half = len(parameters) // 2
    groups = [{"params": list(parameters.values())[:half]}, {"params": list(parameters.values())[half:]}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    clipper = Clipper(model.named_parameters(), policy, optimizer=optimizer)
    random, records = torch.Generator().manual_seed(2), []
    for step in range(STEPS):
        batch = (10 if step == STEPS - 1 else 1) * torch.randn(8, 6, dtype=torch.float64, generator=random)
        optimizer.zero_grad()
        model(batch.chunk(processes)[rank]).square().mean().backward()
        report = clipper.clip()
        clipper.check()
        records.append(record(report) | {"gradients": [whole(p.grad) for p in parameters.values()]})
        if not report.dropped:
            optimizer.step()
    return records


def backward(model: nn.Module, part: int = 0, parts: int = 1) -> list[Gradients]:
    """The gradients of this process's part of a few batches, with the same weights."""
    random, found = torch.Generator().manual_seed(2), []
    shape = (8, 1, 6) if isinstance(model[0], nn.ConvTranspose1d) else (8, 6)  # type: ignore[index]
    for step in range(STEPS):
        batch = (10 if step == STEPS - 1 else 1) * torch.randn(shape, dtype=torch.float64, generator=random)
        model.zero_grad()
        model(batch.chunk(parts)[part]).square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    return found


def clipped(policy: Policy, model: nn.Module, gradients: list[Gradients], process_group: Any = None) -> list[Record]:
    """Clips one step after the other; returns the reports and the whole gradients."""
    clipper, records = clipper_of(policy, model, process_group), []
    for step in gradients:
        put(model, step)
        try:
            report = clipper.clip()
        except NonFiniteGradientError as error:
            records.append({"error": dict.fromkeys(error.names, 1.0)})
            continue
        records.append(record(report) | {"gradients": whole_gradients(model)})
    clipper.check()
    return records


def clipper_of(policy: Policy, model: nn.Module, process_group: Any) -> Clipper:
    """Makes a Clipper with two parameter groups; a process may hold no parameter of one of them."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": []}]
    for name, parameter in model.named_parameters():
        groups["0" not in name]["params"].append(parameter)
    return Clipper(model, policy, optimizer=torch.optim.SGD(groups, lr=0.1), process_group=process_group)


def put(model: nn.Module, gradients: Gradients) -> None:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = None if gradient is None else clone_gradient(gradient)


def clone_gradient(gradient: Any) -> Tensor:
    """Copies a gradient; partial sums stay partial, while `clone` would reduce them."""
    if not hasattr(gradient, "device_mesh"):
        clone: Tensor = gradient.clone()
        return clone
    from torch.distributed.tensor import DTensor

    local, shape, stride = gradient.to_local().clone(), gradient.shape, gradient.stride()
    return DTensor.from_local(local, gradient.device_mesh, gradient.placements, shape=shape, stride=stride)


def whole_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The whole gradients by name, with zeros for missing ones."""
    return {n: whole(torch.zeros_like(p) if p.grad is None else p.grad) for n, p in model.named_parameters()}


def record(report: ClipReport) -> Record:
    tensors = (report.before, report.after, report.norms, report.limits, report.fraction)
    return {"report": list(tensors), "dropped": report.dropped, "parts": list(report.by_parameter().values())}


def whole(tensor: Any) -> Tensor:
    full: Tensor = tensor.detach().full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()
    return full


# -- models that are sharded or replicated


def fsdp(model: nn.Module, mesh: Any = None) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in model.children():
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def tensor_parallel(model: nn.Module, mesh: Any) -> nn.Module:
    """Parallelizes the first two layers; the last one is replicated."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def sharded(size: int) -> dict[str, tuple[nn.Module, list[Gradients]]]:
    """Models on `size` processes, with this process's part of the gradients of a few batches."""
    from torch.distributed.device_mesh import init_device_mesh

    rank = distributed.get_rank()
    if size == 2:
        mesh = init_device_mesh("cpu", (2,))
        made = {"tensor": (tensor_parallel(network(4), mesh), 0, 1), "convolutions": (fsdp(convolutions()), rank, 2)}
    else:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
        both = fsdp(tensor_parallel(network(4), mesh["model"]), mesh["data"])
        made = {"hsdp": (fsdp(network(), mesh), rank, 4), "fsdp with tensor": (both, rank // 2, 2)}
    return {setup: (model, backward(model, part, parts)) for setup, (model, part, parts) in made.items()}


WHOLE = {
    "tensor": lambda: network(4),
    "convolutions": convolutions,
    "hsdp": network,
    "fsdp with tensor": lambda: network(4),
}


# -- DTensor gradients: sharded by columns, partial sums, or missing


def columns() -> list[Tensor]:
    random = torch.Generator().manual_seed(3)
    shapes = [(4, 5), (3,), (5, 2), (3, 2), (4, 2)]
    return [torch.randn(shape, dtype=torch.float64, generator=random) for shape in [*shapes, *shapes]]


def dtensor_model() -> tuple[nn.Module, Gradients]:
    """A model with gradients for DTensors: columns, partial sums, rows of one process only, and a missing one."""
    values = columns()
    rows = values[7].clone()
    rows[3:] = 0
    return nn.ParameterDict({f"p{i}": v for i, v in enumerate(values[:5])}), [
        values[5],
        values[6],
        rows,
        values[8],
        None,
    ]


def local_dtensors(rank: int, missing: bool = True) -> tuple[nn.Module, Gradients]:
    """The DTensors of this process. missing: whether some gradients are missing on some processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    placements: list[Any] = [Shard(1), Replicate(), Shard(0), Replicate(), Shard(0)]
    model, gradients = dtensor_model()
    for name, placement in zip(list(model), placements, strict=True):  # type: ignore[call-overload]
        model[name] = nn.Parameter(distribute_tensor(model[name], mesh, [placement]))
    columns, halves, rows, summed, _ = gradients
    assert columns is not None
    assert halves is not None
    assert rows is not None
    assert summed is not None
    here: Gradients = [distribute_tensor(columns, mesh, [Shard(1)]), DTensor.from_local(halves / 2, mesh, [Partial()])]
    here += [distribute_tensor(rows, mesh, [Shard(0)])]
    here += [DTensor.from_local(summed if missing else summed / 2, mesh, [Partial()])]
    here += [distribute_tensor(torch.ones(4, 2, dtype=torch.float64), mesh, [Shard(0)])]
    if missing:
        here[2 if rank else 3] = here[4] = None
    return model, here


# -- parameters that differ between processes


def stage(rank: int) -> nn.Module:
    return network()[:2] if rank == 0 else network()[2:]


def mixture(dense: list[str], experts: list[str]) -> nn.Module:
    names = [*(f"dense{each}" for each in dense), *(f"experts{each}" for each in experts)]
    made = {}
    for name in names:
        random = torch.Generator().manual_seed(sum(map(ord, name)))
        made[name] = torch.randn(3, 2, dtype=torch.float64, generator=random)
    return nn.ParameterDict(made)


def own_gradients(model: nn.Module) -> list[Gradients]:
    """The gradients of a few batches, by parameter name."""
    if isinstance(model, nn.Sequential):
        names = [name for name, _ in network().named_parameters()]
        for_sharding = [names.index(name) for name, _ in model.named_parameters()]
        return [[step[index] for index in for_sharding] for step in backward(network())]
    sizes = {name: 1e-3 if "1" in name else 1.0 for name, _ in model.named_parameters()}  # not all exceed a limit
    return [
        [(10 if step == 3 else 1) * sizes[name] * p.detach().roll(step) for name, p in model.named_parameters()]
        for step in range(STEPS)
    ]


def for_setup(policy: Policy, setup: str) -> Policy:
    """The policy for a setup; in half a pipeline it excludes all parameters of one stage."""
    return replace(policy, exclude=["0.*"]) if setup == "half a pipeline" and not isinstance(policy, Chain) else policy


def partitioned(size: int) -> dict[str, tuple[nn.Module, list[Gradients], Any]]:
    """Models of which this process holds a part, with gradients, and the process groups."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    rank, world = distributed.get_rank(), distributed.group.WORLD
    if size == 2:
        mesh, experts, mixed = init_device_mesh("cpu", (2,)), mixture([""], [str(rank)]), mixture(["1"], [str(rank)])
        gradients = [[distribute_tensor(one, mesh, [Shard(0)]), other] for one, other in own_gradients(mixed)]
        mixed["dense1"] = nn.Parameter(distribute_tensor(mixed["dense1"], mesh, [Shard(0)]))
        return {
            "pipeline": (stage(rank), own_gradients(stage(rank)), world),
            "half a pipeline": (stage(rank), own_gradients(stage(rank)), world),
            "experts": (experts, own_gradients(experts), {"*experts*": world}),
            "experts and shards": (mixed, gradients, {"*experts*": world}),
        }
    stages, experts_of = (init_device_mesh("cpu", (2, 2)).get_group(dim) for dim in range(2))
    held = mixture([str(rank // 2)], [f"{rank // 2}{rank % 2}"])
    groups = {"*experts*": [stages, experts_of], "*": stages}
    return {"pipeline of experts": (held, own_gradients(held), groups)}


WHOLE_MODELS = {
    "pipeline": network,
    "half a pipeline": network,
    "experts": lambda: mixture([""], ["0", "1"]),
    "experts and shards": lambda: mixture(["1"], ["0", "1"]),
    "pipeline of experts": lambda: mixture(["0", "1"], ["00", "01", "10", "11"]),
}


# -- the code of each process


def worker(rank: int, size: int, port: int, folder: str, policies: list[Policy]) -> None:
    torch.set_num_threads(1)
    address = f"tcp://localhost:{port}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=size, timeout=timedelta(seconds=LIMIT))
    found: Record = {}
    for setup, (model, gradients) in sharded(size).items():
        found[setup] = {
            policy_id(policy): clipped(policy, model, gradients) for policy in for_sharding(policies, setup)
        }
    for setup, (model, gradients, group) in partitioned(size).items():
        found[setup] = {policy_id(p): clipped(for_setup(p, setup), model, gradients, group) for p in policies}
    if size == 2:
        found |= on_two_processes(rank, policies)
    torch.save(found, Path(folder) / f"{size} {rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def for_sharding(policies: list[Policy], setup: str) -> list[Policy]:
    return [policy for policy in policies if scope_of(policy) == "unit"] if setup == "convolutions" else policies


def on_two_processes(rank: int, policies: list[Policy]) -> Record:
    model, gradients = local_dtensors(rank)
    shards = fsdp(network())
    everything = backward(shards, rank, 2)[0]
    return {
        "fsdp": {policy_id(policy): steps(policy, fsdp, rank, 2) for policy in policies},
        "ddp": {
            policy_id(p): steps(p, nn.parallel.DistributedDataParallel, rank, 2) for p in policies[::5]
        },  # gradients are whole there: a few are enough
        "dtensor_model": {policy_id(policy): clipped(policy, model, [gradients] * 2) for policy in policies},
        "collectives": {policy_id(policy): collectives(policy, rank, shards, everything) for policy in policies},
        "functional": functional(rank),
        "nonfinite": nonfinite(rank, policies),
        "refused": refused(),
        "partly sharded": partly_sharded(rank),
        "saved": saved(rank, next(policy for policy in policies if policy.name == "ema")),
    }


def partly_sharded(rank: int) -> Tensor:
    """A parameter that one mesh dimension replicates and another shards: a partial sum here, and no gradient there."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 1))
    zeros = torch.zeros(2, dtype=torch.float64)
    parameter = nn.Parameter(distribute_tensor(zeros, mesh, [Replicate(), Shard(0)]))
    if rank == 0:
        parameter.grad = DTensor.from_local(zeros + torch.tensor([3.0, 4.0]), mesh, [Partial(), Shard(0)])
    clipper = Clipper([("p", parameter)], ClipByNorm(max=1.0))
    clipper.clip()
    clipper.check()
    return whole(parameter.grad)


def saved(rank: int, policy: Policy) -> Record:
    """Saves and loads a memory on the first process alone, while partial gradients exist on the others."""
    model, gradients = local_dtensors(rank)
    clipper = clipper_of(policy, model, None)
    put(model, gradients)
    clipper.clip()
    put(model, gradients)
    if rank == 0:
        clipper.load_state_dict(clipper.state_dict())
    return record(clipper.clip())


class Collectives(TorchDispatchMode):
    """Records the collectives that are called, with the shapes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(each, "device_mesh") for each in types):
            return NotImplemented  # calls this again with the tensors that the process holds
        if "c10d" in str(function):
            shapes = [list(each.shape) for each in tensors_in(list(args))]
            self.found.append(f"{function} {shapes}")
        return function(*args, **kwargs or {})


def collectives(policy: Policy, rank: int, model: nn.Module, everything: Gradients) -> dict[str, list[str]]:
    """The collectives of two clips, by the gradients that this process has; "clip" has those of one clip."""
    found: dict[str, list[str]] = {}
    for case, present in {"all": 6, "some": (2, 5)[rank], "one": (6, 0)[rank]}.items():
        clipper = clipper_of(policy, model, None)
        with Collectives() as mode:
            for _ in range(2):
                put(model, [*everything[:present], *[None] * (6 - present)])
                before = len(mode.found)
                clipper.clip()
                found.setdefault("clip", mode.found[before:])
                clipper.check()
        found[case] = mode.found
    pipeline, own = stage(rank), own_gradients(stage(rank))[0]
    for case, present in {"stages": len(own), "one stage": (len(own), 0)[rank]}.items():
        clipper = clipper_of(policy, pipeline, distributed.group.WORLD)
        with Collectives() as mode:
            for _ in range(2):
                put(pipeline, [*own[:present], *[None] * (len(own) - present)])
                clipper.clip()
                clipper.check()
        found[case] = mode.found
    return found


def functional(rank: int) -> Record:
    held = stage(rank)
    put(held, own_gradients(held)[0])
    norm = clip_grad_norm_(held.parameters(), 0.1, process_group=distributed.group.WORLD)
    return {"norm": norm, "gradients": whole_gradients(held)}


def with_nan(gradients: list[Gradients], spoiled: bool) -> list[Gradients]:
    """A step with a nan, if `spoiled`, and one without."""
    first = [None if each is None else clone_gradient(each) for each in gradients[0]]
    if spoiled:
        local: Any = first[0]
        (local.to_local() if hasattr(local, "to_local") else local).view(-1)[-1] = torch.nan
    return [first, gradients[1]]


def nonfinite(rank: int, policies: list[Policy]) -> Record:
    """Clips with a nan in one process's shard or stage, under each mode of `nonfinite`."""
    shards, stages, found = fsdp(network()[:1]), stage(rank), {}
    in_shards = with_nan(backward(shards, rank, 2), rank == 1)
    in_stages = with_nan(own_gradients(stages), rank == 1)
    for mode in ("error", "drop", "zero"):
        for policy in policies:
            policy = replace(policy, nonfinite=mode)
            one = clipped(policy, shards, in_shards)
            found[f"{mode} {policy_id(policy)}"] = one, clipped(policy, stages, in_stages, distributed.group.WORLD)
    return found


def refused() -> list[str]:
    """The error messages for FSDP1 and for a grouped transposed convolution."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    policy, cpu = ClipByNorm(max=0.1), torch.device("cpu")
    late = nn.Sequential(nn.Linear(2, 3))
    clipper = Clipper(late, policy)
    wrapped = FullyShardedDataParallel(nn.Linear(2, 3), device_id=cpu)
    original = FullyShardedDataParallel(nn.Linear(2, 3), device_id=cpu, use_orig_params=True)
    late[0] = FullyShardedDataParallel(late[0], device_id=cpu)
    tries: list[Callable[[], object]] = [
        lambda: Clipper(wrapped, policy),
        lambda: Clipper(nn.Sequential(original), policy),
        lambda: Clipper(original.named_parameters(), policy),
        clipper.clip,
        lambda: Clipper(fsdp(nn.Sequential(nn.ConvTranspose1d(4, 4, 2, groups=2))), AGC(scope="unit")),
    ]
    return [message(attempt) for attempt in tries]


def message(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


# -- the tests


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Record]]:
    """The results of all processes, by the number of processes and the rank."""
    folder, policies = tmp_path_factory.mktemp("sharded"), cases()
    started = [start(size, str(folder), policies) for size in (2, 4)]
    until = time.monotonic() + 4 * LIMIT
    for context in started:
        while not context.join(timeout=1):
            if time.monotonic() > until:
                for process in context.processes:
                    process.kill()
                pytest.fail("the processes wait for each other")
    return {
        size: [torch.load(folder / f"{size} {rank}.pt", weights_only=True) for rank in range(size)] for size in (2, 4)
    }


def start(size: int, folder: str, policies: list[Policy]) -> Any:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # Forked from one process that has imported torch, which takes longer than all tests.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    return torch.multiprocessing.start_processes(
        worker, (size, port, folder, policies), nprocs=size, join=False, start_method="forkserver"
    )


def close(one: object, other: object) -> None:
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-300, equal_nan=True)


def same(one: object, other: object) -> None:
    """Asserts that values are bit-identical on all processes, which would otherwise diverge."""
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_as_one_process_with_one_big_batch(found: dict[int, list[Record]], subtests: pytest.Subtests) -> None:
    """A single test: pytest-xdist workers that share it would each start the processes again."""
    model, gradients = dtensor_model()
    models = {"dtensor_model": (model, [gradients] * 2)} | {
        setup: (make(), backward(make())) for setup, make in WHOLE.items()
    }
    for policy in cases():
        name = policy_id(policy)
        alone = steps(policy, lambda model: model, 0, 1)
        expected = {"fsdp": alone, "ddp": alone} | {setup: clipped(policy, *models[setup]) for setup in models}
        for setup, records in expected.items():
            size = 2 if setup in found[2][0] else 4
            if name in found[size][0][setup]:
                with subtests.test(policy=name, setup=setup):
                    for one, other in zip(found[size][0][setup][name], records, strict=True):
                        close(one, other)
                    for rank in range(1, size):
                        same(found[size][0][setup][name], found[size][rank][setup][name])
    check_partitioned(found, subtests)
    check_collectives(found[2], subtests)
    check_nonfinite(found[2], subtests)
    with subtests.test("saved"):
        same(found[2][0]["saved"], found[2][1]["saved"])
    with subtests.test("partly sharded"):
        for rank in range(2):
            assert found[2][rank]["partly sharded"].tolist() == pytest.approx([0.6, 0.8])
    with subtests.test("functional"):
        check_functional(found[2])
    with subtests.test("refused"):
        *fsdp1, convolution = found[2][0]["refused"]
        for answer in fsdp1:
            assert answer.startswith("TypeError: FullyShardedDataParallel (FSDP1)")
            assert answer.endswith("fully_shard instead")
        assert "a transposed convolution sharded over its outputs; exclude it" in convolution


def blocks(policy: Policy, gradients: dict[str, Tensor]) -> list[str] | None:
    """The names of the blocks of the parameters, if blocks do not extend over processes; else None."""
    exclude = policy.exclude if isinstance(policy, BlockPolicy) else []
    gradients = {name: g for name, g in gradients.items() if not any(fnmatch(name, each) for each in exclude)}
    units = [f"{name}[{row}]" for name, g in gradients.items() for row in range(len(g) if g.dim() > 1 else 1)]
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in gradients))
    return {"parameter": list(gradients), "element": list(gradients), "layer": layers, "unit": units}.get(
        scope_of(policy)
    )


def compare(policy: Policy, held: Record, alone: Record) -> None:
    """Compares one process's result for a partitioned model with that for the whole model."""
    if "error" in alone:
        assert set(held["error"]) <= set(alone["error"])
        return
    close(held["report"][:2], alone["report"][:2])
    assert held["dropped"] == alone["dropped"]
    names = list(held["gradients"])
    close(held["gradients"], {name: alone["gradients"][name] for name in names})
    parts = dict(zip(alone["gradients"], alone["parts"], strict=True))
    close(held["parts"], [parts[name] for name in names])
    own, every = blocks(policy, held["gradients"]), blocks(policy, alone["gradients"])
    if own is None and not isinstance(policy, Chain):
        close(held["report"], alone["report"])
    elif own is not None and every is not None and not held["dropped"]:
        for figure in (2, 3):
            figures = dict(zip(every, alone["report"][figure], strict=True))
            close(list(held["report"][figure]), [figures[name] for name in own])


def check_partitioned(found: dict[int, list[Record]], subtests: pytest.Subtests) -> None:
    for setup, make in WHOLE_MODELS.items():
        size, model, gradients = 2 if setup in found[2][0] else 4, make(), own_gradients(make())
        for policy in (for_setup(policy, setup) for policy in cases()):
            alone = clipped(policy, model, gradients)
            with subtests.test(policy=policy_id(policy), setup=setup):
                ranks = [found[size][rank][setup][policy_id(policy)] for rank in range(size)]
                for here in ranks:
                    for one, other, first in zip(here, alone, ranks[0], strict=True):
                        compare(policy, one, other)
                        same(one["report"][:2], first["report"][:2])


def check_collectives(found: list[Record], subtests: pytest.Subtests) -> None:
    """The collectives do not depend on which gradients a process has; their number under FSDP2."""
    by_unit, by_policy = {"none": 2, "normalize": 3, "agc": 4, "rms": 4}, {"value": 4, "spike": 4, "chain": 4}
    for policy in cases():
        with subtests.test("collectives", policy=policy_id(policy)):
            one, other = (rank["collectives"][policy_id(policy)] for rank in found)
            assert one == other
            assert one["all"] == one["some"] == one["one"]
            assert one["stages"] == one["one stage"]
            assert len(one["clip"]) == (by_unit if scope_of(policy) == "unit" else by_policy).get(policy.name, 1)


def check_nonfinite(found: list[Record], subtests: pytest.Subtests) -> None:
    """All processes raise, drop the step or set elements to 0, and clip the next step as usual."""
    gradients = with_nan(backward(network()[:1]), spoiled=True)
    in_stage = with_nan(backward(network()), spoiled=False)
    last = in_stage[0][2]
    assert last is not None
    last.view(-1)[-1] = torch.nan  # of the second stage's first parameter
    sharded, partitioned = network()[:1], network()
    for mode in ("error", "drop", "zero"):
        for policy in cases():
            policy = replace(policy, nonfinite=mode)
            with subtests.test(mode, policy=policy_id(policy)):
                by_rank = [rank["nonfinite"][f"{mode} {policy_id(policy)}"] for rank in found]
                for one, other in zip(by_rank[0][0], clipped(policy, sharded, gradients), strict=True):
                    close(one, other)
                same(by_rank[0][0], by_rank[1][0])
                for _, stages in by_rank:
                    for one, other in zip(stages, clipped(policy, partitioned, in_stage), strict=True):
                        compare(policy, one, other)


def check_functional(found: list[Record]) -> None:
    model = network()
    put(model, backward(model)[0])
    norm = clip_grad_norm_(model.parameters(), 0.1)
    close(found[0]["functional"]["norm"], norm)
    same(found[0]["functional"]["norm"], found[1]["functional"]["norm"])
    close(found[0]["functional"]["gradients"] | found[1]["functional"]["gradients"], whole_gradients(model))


def test_every_case_limits_something() -> None:
    """A case without an effect would test nothing."""
    for policy in cases():
        records = steps(policy, lambda model: model, 0, 1)
        assert policy.name == "none" or any(each["report"][4] > 0 for each in records), policy_id(policy)
