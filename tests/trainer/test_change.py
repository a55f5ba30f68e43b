"""The norm of the weights and of their change, against NumPy in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.gradclip.test_accelerator import NoHostCopies
from trainer.monitor.update_norm import PIECE, Change

SHAPES = {
    "small": [(3, 4), (4,), (), (2, 0)],
    "pieces": [(PIECE + 5,), (7, 3), (2, PIECE)],
}


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([parameter.detach().double().numpy().ravel() for parameter in model.parameters()])


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "strided"])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=list(SHAPES))
def test_norms_are_those_of_numpy(shapes: list[tuple[int, ...]], every: bool, kind: str) -> None:
    torch.manual_seed(0)
    dtype = torch.float32 if kind == "strided" else getattr(torch, kind)
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    if kind == "strided":
        tensors = [tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for tensor in tensors]
    model = nn.ParameterList(map(nn.Parameter, tensors))
    change = Change(model, every=every)
    for step in range(1, 5):
        if every or step != 2:  # a step that is not measured moves the weights too
            change.before()
        before = flat(model)
        with torch.no_grad():
            for parameter in model:
                parameter += 10.0**-step * torch.randn_like(parameter)
        if every or step != 2:
            after = flat(model)
            size, moved = change.after().tolist()
            assert size == pytest.approx(np.linalg.norm(after), rel=1e-5)
            # The difference itself is rounded to the weights' type.
            assert moved == pytest.approx(np.linalg.norm(after - before), rel=1e-2 if kind == "bfloat16" else 1e-5)


@pytest.mark.parametrize("every", [False, True])
def test_an_accelerator_is_not_waited_for(every: bool) -> None:
    model = nn.Linear(5, 3, device="meta")
    change = Change(model, every=every)
    change.before()
    change.after()
    with NoHostCopies() as watch:
        for _ in range(2):
            change.before()
            assert change.after().shape == (2,)
    assert watch.operations > 10
