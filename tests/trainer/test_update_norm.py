"""The norm of the weights and of their change, against NumPy in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.gradclip.test_accelerator import NoHostCopies
from trainer.monitor.update_norm import snapshot, update_norms

SHAPES = {"small": [(3, 4), (4,), (), (2, 0)], "large": [(200_005,), (7, 3), (2, 70_000)]}


def flatten(model: nn.Module) -> np.ndarray:
    return np.concatenate([parameter.detach().double().numpy().ravel() for parameter in model.parameters()])


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "strided"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
def test_norms_equal_those_of_numpy(shapes: list[tuple[int, ...]], kind: str) -> None:
    torch.manual_seed(0)
    dtype = torch.float32 if kind == "strided" else getattr(torch, kind)
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    if kind == "strided":
        tensors = [tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for tensor in tensors]
    model = nn.ParameterList(map(nn.Parameter, tensors))
    for step in range(1, 4):
        copies, before = snapshot(model), flatten(model)
        with torch.no_grad():
            for parameter in model:
                parameter += 10.0**-step * torch.randn_like(parameter)
        after = flatten(model)
        size, moved = update_norms(model, copies).tolist()
        assert size == pytest.approx(np.linalg.norm(after), rel=1e-5)
        # The difference itself is rounded to the weights' type.
        assert moved == pytest.approx(np.linalg.norm(after - before), rel=1e-2 if kind == "bfloat16" else 1e-5)
        assert np.array_equal(flatten(model), after)


def test_weights_that_are_not_trained_do_not_count() -> None:
    model = nn.Linear(5, 3)
    model.bias.requires_grad_(False)
    copies = snapshot(model)
    with torch.no_grad():
        model.weight += 1.0
    size, moved = update_norms(model, copies).tolist()
    assert size == pytest.approx(model.weight.norm().item())
    assert moved == pytest.approx(15**0.5)


def test_update_norms_do_not_wait_for_an_accelerator() -> None:
    model = nn.Linear(5, 3, device="meta")
    update_norms(model, snapshot(model))
    with NoHostCopies() as watch:
        for _ in range(2):
            assert update_norms(model, snapshot(model)).shape == (2,)
    assert watch.operations > 10
