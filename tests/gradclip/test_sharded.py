"""On two processes, sharded (FSDP2, tensor parallelism) or replicated (DDP): as one process with one big batch."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from gradclip import Chain, Clipper, ClipReport, Policy
from tests.gradclip.support import pairs
from tests.support import policy_id

PROCESSES, STEPS = 2, 4
Record = dict[str, Any]
Wrap = Callable[[nn.Module], nn.Module]


def quick(policy: Policy) -> Policy:
    """With limits that bite within a few steps."""
    if isinstance(policy, Chain):
        return policy
    policy = replace(policy, warmup=2) if hasattr(policy, "warmup") else policy
    policy = replace(policy, theta=2.0) if policy.name == "spike" else policy
    policy = replace(policy, initial=0.02) if policy.name == "quantile" else policy
    low = {"norm": 0.1, "value": 0.02, "rms": 0.01, "drop": 0.5}
    return replace(policy, max=low[policy.name]) if policy.name in low else policy


def cases() -> list[Policy]:
    """Made once, and handed to the processes: to compose them takes longer than to clip with them."""
    return [quick(policy) for policy in pairs()]


def network() -> nn.Module:
    """Odd sizes: pieces are uneven, and of the last layer one process holds none."""
    torch.manual_seed(1)
    layers = [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)]
    return nn.Sequential(*layers).double()


def steps(policy: Policy, wrap: Wrap, rank: int, processes: int) -> list[Record]:
    """A few steps on this process's share of the batches: what was reported, and the gradients left, whole."""
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


def record(report: ClipReport) -> Record:
    tensors = (report.before, report.after, report.norms, report.limits, report.fraction)
    return {"report": list(tensors), "dropped": report.dropped, "parts": list(report.by_parameter().values())}


def whole(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()
    return full


# -- what runs on each of the two processes


def fsdp(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in model.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    return model


def worker(rank: int, port: int, folder: str, those: list[Policy]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=PROCESSES)
    found = {
        "fsdp": {policy_id(policy): steps(policy, fsdp, rank, PROCESSES) for policy in those},
        "ddp": {
            policy_id(p): steps(p, nn.parallel.DistributedDataParallel, rank, PROCESSES) for p in those[::5]
        },  # gradients are whole there: a few are enough
        "placed": placed(those),
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def placed(those: list[Policy]) -> dict[str, list[Record]]:
    """Gradients cut along columns, and whole ones that are not yet summed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (PROCESSES,))
    values, gradients = columns()
    found = {}
    for policy in those:
        parameters = [
            nn.Parameter(distribute_tensor(values[0], mesh, [Shard(1)])),
            nn.Parameter(distribute_tensor(values[1], mesh, [Replicate()])),
        ]
        parameters[0].grad = distribute_tensor(gradients[0], mesh, [Shard(1)])
        parameters[1].grad = DTensor.from_local(gradients[1] / PROCESSES, mesh, [Partial()])
        found[policy_id(policy)] = [clipped(policy, parameters)]
    return found


def columns() -> tuple[list[Tensor], list[Tensor]]:
    random = torch.Generator().manual_seed(3)
    shapes = [(4, 5), (3,)]
    made = [torch.randn(shape, dtype=torch.float64, generator=random) for shape in [*shapes, *shapes]]
    return made[:2], made[2:]


def clipped(policy: Policy, parameters: list[nn.Parameter]) -> Record:
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=0.1)
    clipper = Clipper([(f"p{i}", p) for i, p in enumerate(parameters)], policy, optimizer=optimizer)
    report = clipper.clip()
    clipper.check()
    return record(report) | {"gradients": [whole(parameter.grad) for parameter in parameters]}


# -- the tests


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, list[Record]]]]:
    """What the processes found, by their rank."""
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder), cases()), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def test_as_one_process_with_one_big_batch(found: list[Any], subtests: pytest.Subtests) -> None:
    """One test, since every worker of the suite that had a part of it would start its own processes."""
    values, gradients = columns()
    for policy in cases():
        name = policy_id(policy)
        parameters = [nn.Parameter(value) for value in values]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        alone = steps(policy, lambda model: model, 0, 1)
        expected = {"fsdp": alone, "ddp": alone, "placed": [clipped(policy, parameters)]}
        for way in (way for way, records in found[0].items() if name in records):
            with subtests.test(policy=name, way=way):
                for one, other in zip(found[0][way][name], expected[way], strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-300)
                # To the last bit, or the processes would drift apart.
                torch.testing.assert_close(found[0][way][name], found[1][way][name], rtol=0, atol=0)


def test_the_cases_limit_something() -> None:
    """A policy that limits nothing within the few steps would prove nothing."""
    for policy in cases():
        records = steps(policy, lambda model: model, 0, 1)
        assert policy.name == "none" or any(each["report"][4] > 0 for each in records), policy_id(policy)
