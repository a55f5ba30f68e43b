"""What PyTorch's and Keras's tests check of clipping on several processes: sharded, replicated, partial sums.

Sections of torch: fsdp1 is test/distributed/fsdp/test_fsdp_clip_grad_norm_.py, fsdp2 is test/distributed/_composable/
fsdp/test_fully_shard_clip_grad_norm_.py, dtensor is test/distributed/tensor/test_math_ops.py. FSDP1 itself is refused:
what its tests check of sharded gradients is checked with FSDP2.
"""

import math
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import Parameter

from gradclip import ClipByNorm, ClipByValue, Clipper, InvalidField, clip_grad_norm_, get_total_norm
from tests.gradclip.ported.behaviours import Behaviour, behaviour, norm, values
from tests.gradclip.test_sharded import LIMIT, PRELOADED, Collectives, fsdp, network, tensor_parallel, whole

SIZE = 4  # processes: one mesh of 4, or 2 by 2
NORM_TYPES = [1.0, 2.0, 3.0, math.inf]
FOREACH = [None, False, True]
FSDP1 = "FSDP1 itself is refused; with FSDP2 it is so"
SHARDED = "tests/gradclip/test_sharded.py::test_as_one_process_with_one_big_batch"
Record = dict[str, Any]

COVERED_ELSEWHERE = [
    Behaviour(
        "torch", "fsdp1.5", "test_ddp_parity", "after an optimizer's step the weights are those of DDP", "", SHARDED
    ),
    Behaviour("torch", "fsdp1.6", "test_ddp_parity", "the norms of three further steps are those of DDP", "", SHARDED),
]


# -- the code of each process


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://localhost:{port}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=SIZE, timeout=timedelta(seconds=LIMIT))
    found = {
        "fsdp2": {setup: fully_sharded(setup, rank) for setup in ("1d", "2d")},
        "dtensor": dtensors(rank),
        "replicated": replicated(rank),
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def fully_sharded(setup: str, rank: int) -> list[Record]:
    """Clips the gradients of a model on a mesh of 4, or of 2 by 2, by every norm type."""
    from torch.distributed.device_mesh import init_device_mesh

    if setup == "1d":
        model, part, parts = fsdp(network(4)), rank, 4
    else:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
        model, part, parts = fsdp(tensor_parallel(network(4), mesh["model"]), mesh["data"]), rank // 2, 2
    return [step(model, norm_type, part, parts) for norm_type in NORM_TYPES]


def step(model: nn.Sequential, norm_type: float, part: int, parts: int) -> Record:
    """Clips by one norm type; returns the whole gradients before and after, and the norms of the local parts."""
    found: Record = {"after": [], "total": []}
    for foreach in FOREACH:
        backward(model, part, parts)
        found["before"] = gradients(model)
        found["local norms before"] = local_norms(model, norm_type)
        found["measured"] = get_total_norm([p.grad for p in model.parameters() if p.grad is not None], norm_type)
        with Collectives() as mode:
            found["total"].append(clip_grad_norm_(model.parameters(), limit(norm_type), norm_type, foreach=foreach))
        found["after"].append(gradients(model))
    found["collectives"] = [each for each in mode.found if "wait_tensor" not in each]
    return found | {"local norms": local_norms(model, norm_type)}


def backward(model: nn.Sequential, part: int = 0, parts: int = 1) -> None:
    """Computes the gradients of this process's part of a batch; the last weight's become 0, the last bias has none."""
    batch = 10 * torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    model(batch.chunk(parts)[part]).square().mean().backward()
    model[-1].weight.grad.mul_(0)
    model[-1].bias.grad = None


def gradients(model: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else whole(p.grad) for p in model.parameters()]


def local_norms(model: nn.Module, norm_type: float) -> list[float]:
    """The norms of the gradients that this process holds, or of its shards."""
    present = [p.grad for p in model.parameters() if p.grad is not None]
    return [norm(values(g.to_local() if hasattr(g, "to_local") else g), norm_type) for g in present]


def limit(norm_type: float) -> float:
    """A limit that some gradients and shards exceed by themselves."""
    return 0.01 if norm_type == math.inf else 0.02


def parts_of_sums() -> list[Tensor]:
    """The part of each process of a sum: [rank, 1]."""
    return [torch.tensor([float(rank), 1.0]) for rank in range(SIZE)]


def added() -> list[float]:
    """The sum of all parts."""
    return [float(sum(range(SIZE))), float(SIZE)]


def positive(number: int) -> Tensor:
    return torch.rand(12, 8, generator=torch.Generator().manual_seed(number)) + 0.1


def dtensors(rank: int) -> Record:
    """The norms of DTensors in several placements, on one mesh and on two."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    line = init_device_mesh("cpu", (SIZE,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))

    def shards() -> list[Parameter]:
        return [with_gradient(distribute_tensor(positive(number), line, [Shard(0)])) for number in range(3)]

    def partial(factor: float = 1.0) -> Parameter:
        parameter = Parameter(distribute_tensor(torch.zeros(2), line, [Replicate()]))
        parameter.grad = DTensor.from_local(factor * parts_of_sums()[rank], line, [Partial()])
        return parameter

    on_meshes = [
        with_gradient(distribute_tensor(positive(0), square["a"], [Replicate()])),
        with_gradient(distribute_tensor(positive(1), square["b"], [Replicate()])),
        with_gradient(distribute_tensor(positive(2), square["b"], [Shard(0)])),
        with_gradient(positive(3)),
    ]
    return {
        "sharded": [get_total_norm(shards()[0].grad, p) for p in NORM_TYPES],
        "each sharded": [norms_of_each(shards(), p) for p in NORM_TYPES],
        "partial": [get_total_norm(partial().grad, p) for p in NORM_TYPES],
        "each partial": [norms_of_each([partial(), partial(2.0)], p) for p in NORM_TYPES],
        "each on its mesh": norms_of_each(on_meshes, 2.0),
        "all meshes": clip_grad_norm_(on_meshes, 1.0),
        "all meshes, after": [whole(parameter.grad) for parameter in on_meshes],
        "refused": [message(shards(), p) for p in (0.0, -math.inf)],
    }


def with_gradient(gradient: Tensor) -> Parameter:
    parameter = Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    return parameter


def norms_of_each(parameters: list[Parameter], norm_type: float) -> Tensor:
    """The norm of each gradient, as a Clipper reports it; an infinite limit leaves the gradients."""
    policy = ClipByNorm(max=math.inf, norm_type=norm_type, scope="parameter")
    return Clipper([(str(number), p) for number, p in enumerate(parameters)], policy).clip().norms


def message(parameters: list[Parameter], norm_type: float) -> str:
    try:
        get_total_norm([p.grad for p in parameters if p.grad is not None], norm_type)
    except InvalidField as error:
        return str(error)
    return ""


def replicated(rank: int) -> Record:
    """The gradient of one weight under DDP, clipped by its norm and by its elements; the processes' mean is 100."""
    found: Record = {}
    for name, policy in {"norm": ClipByNorm(max=1.0, scope="parameter"), "value": ClipByValue(max=1.0)}.items():
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1, bias=False))
        (model(torch.full((1, 2), 40.0 * (rank + 1)))).sum().backward()
        before = model.module.weight.grad.clone()
        Clipper(model, policy).clip()
        found[name] = [before, model.module.weight.grad]
    return found


# -- the tests


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The results of all processes."""
    folder = tmp_path_factory.mktemp("ported")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    context = torch.multiprocessing.start_processes(
        worker, (port, str(folder)), nprocs=SIZE, join=False, start_method="forkserver"
    )
    until = time.monotonic() + 2 * LIMIT
    while not context.join(timeout=1):
        if time.monotonic() > until:
            for process in context.processes:
                process.kill()
            pytest.fail("the processes wait for each other")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


def test_on_four_processes(found: list[Record], subtests: pytest.Subtests) -> None:
    """A single test: pytest-xdist workers that share it would each start the processes again."""
    for setup in ("1d", "2d"):
        for number, norm_type in enumerate(NORM_TYPES):
            with subtests.test("fully sharded", setup=setup, norm_type=norm_type):
                check_fully_sharded([rank["fsdp2"][setup][number] for rank in found], setup, norm_type)
    for rank in found:
        with subtests.test("dtensor"):
            check_dtensors(rank["dtensor"])
        with subtests.test("replicated"):
            check_replicated(rank["replicated"])


@behaviour("torch", "fsdp2.1", "test_clip_grad_norm_1d, _2d", "the sharded gradients are those of the whole model")
@behaviour("torch", "fsdp2.2", "test_clip_grad_norm_1d, _2d", "some gradients and shards exceed the limit before")
@behaviour("torch", "fsdp2.3", "test_clip_grad_norm_1d, _2d", "the norm is that of the whole model")
@behaviour(
    "torch",
    "fsdp2.4",
    "test_clip_grad_norm_1d, _2d",
    "there is one all-reduce for each dimension of the mesh",
    differs="one gather for each set of dimensions that shard a parameter, and for each norm type that is measured",
)
@behaviour(
    "torch",
    "fsdp2.5",
    "test_clip_grad_norm_1d, _2d",
    "foreach=None takes the fast path",
    differs="`foreach` is ignored: there is one path",
)
@behaviour("torch", "fsdp2.6", "test_clip_grad_norm_1d, _2d", "no whole gradient exceeds the limit afterwards")
@behaviour("torch", "fsdp2.7", "test_clip_grad_norm_1d, _2d", "no shard exceeds the limit afterwards")
@behaviour("torch", "fsdp2.8", "test_clip_grad_norm_1d, _2d", "a gradient is changed unless it is 0")
@behaviour("torch", "fsdp1.2", "test_ddp_parity", "the norm is that of the whole model", differs=FSDP1)
@behaviour("torch", "fsdp1.3", "test_ddp_parity", "every gradient is changed by clipping", differs=FSDP1)
@behaviour("torch", "fsdp1.4", "test_ddp_parity", "a gradient that is missing stays so", differs=FSDP1)
def check_fully_sharded(ranks: list[Record], setup: str, norm_type: float) -> None:
    model, threshold = network(4), limit(norm_type)
    backward(model)
    expected = gradients(model)
    total = norm(values(*expected), norm_type)
    assert any(norm(values(each), norm_type) > threshold for each in expected)
    assert any(each > threshold for rank in ranks for each in rank["local norms before"])
    for rank in ranks:
        close(rank["before"], expected)
        assert rank["measured"].item() == pytest.approx(total, rel=1e-11)
        assert rank["total"] == [rank["measured"]] * len(FOREACH)
        measured = 1 if norm_type == 2 else 2  # the report has the 2-norms, too
        assert len(rank["collectives"]) == {"1d": measured, "2d": 3 * measured + 2}[setup]
        for after in rank["after"]:
            close(after, [None if each is None else each * threshold / total for each in expected])
            assert all(norm(values(each), norm_type) <= threshold * (1 + 1e-12) for each in after)
        assert all(each <= threshold * (1 + 1e-12) for each in rank["local norms"])
    *large, zero, missing = expected
    assert all(each.any() for each in large)
    assert not zero.any()
    assert missing is None


def close(one: list[Tensor | None], other: list[Tensor | None]) -> None:
    for left, right in zip(one, other, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right, rtol=1e-11, atol=0)


@behaviour("torch", "dtensor.1", "test_vector_norm", "the norm of a sharded tensor is that of the whole tensor")
@behaviour("torch", "dtensor.2", "test_vector_norm_partial", "partial sums are added before the norm, not after")
@behaviour("torch", "dtensor.3", "test_foreach_norm", "the norm of each of several sharded tensors")
@behaviour("torch", "dtensor.4", "test_foreach_norm_partial", "the norm of each of several partial sums")
@behaviour(
    "torch",
    "dtensor.6",
    "test_vector_norm_special_norms_placement",
    "orders inf, -inf, 1 and 0",
    differs="orders of 0 and below are refused, and a norm is a plain tensor, the same on every process",
)
@behaviour(
    "torch",
    "dtensor.8",
    "test_foreach_norm_different_mesh",
    "tensors on different meshes have norms of their own",
    differs="they also have a norm together, also with plain tensors, where torch raises",
)
@behaviour("torch", "dtensor.10", "test_partial_reduction_ops", "the norm of a partial sum is that of the sum")
@behaviour("torch", "dtensor.11", "test_foreach_compose", "the largest magnitude of each of several sharded tensors")
def check_dtensors(found: Record) -> None:
    whole_tensors = [positive(number) for number in range(4)]
    for number, p in enumerate(NORM_TYPES):
        norms = [norm(values(each), p) for each in whole_tensors]
        assert found["sharded"][number].item() == pytest.approx(norms[0], rel=1e-6)
        assert found["each sharded"][number].tolist() == pytest.approx(norms[:3], rel=1e-6)
        assert found["partial"][number].item() == pytest.approx(norm(added(), p), rel=1e-6)
        assert found["each partial"][number].tolist() == pytest.approx(
            [norm(added(), p), 2 * norm(added(), p)], rel=1e-6
        )
    total, norms = norm(values(*whole_tensors)), [norm(values(each)) for each in whole_tensors]
    assert found["each on its mesh"].tolist() == pytest.approx(norms, rel=1e-6)
    assert found["all meshes"].item() == pytest.approx(total, rel=1e-6)
    for after, before in zip(found["all meshes, after"], whole_tensors, strict=True):
        torch.testing.assert_close(after, before / total, rtol=1e-6, atol=0)
    assert all("must be a number of at least 0.1" in each for each in found["refused"])


@behaviour("keras", "11", "test_clip_norm (MirroredStrategy)", "each variable's gradient is scaled to the norm")
@behaviour("keras", "12", "test_clip_value (MirroredStrategy)", "each element is clamped")
def check_replicated(found: Record) -> None:
    for name, expected in {"norm": 0.5**0.5, "value": 1.0}.items():
        before, after = found[name]
        assert before.tolist() == [[pytest.approx(100)] * 2]
        assert after.tolist() == [[pytest.approx(expected)] * 2]
