"""One direction: the gradient of the loss has length 1."""

import pytest
import torch

from tests.trainer.options import option
from trainer import data


@pytest.mark.parametrize("rows", [1, 3])
def test_the_gradient_of_the_loss_has_length_one(rows: int) -> None:
    torch.manual_seed(0)
    dataset = data.build(option("data", "direction", width=5, batch_size=rows, target=2.0), seed=1)
    batch = next(dataset.batches(0))
    assert batch.inputs.shape == (rows, 5)
    assert batch.inputs.norm(dim=1).tolist() == pytest.approx([1.0] * rows)
    outputs = (7 * torch.randn(1, 5)).expand(rows, 5).clone().requires_grad_()
    loss = dataset.loss(outputs, batch.targets)
    loss.backward()
    gradient = outputs.grad.sum(0)  # over the rows, which are equal
    assert gradient.norm().item() == pytest.approx(1.0)
    component = (gradient @ outputs[0]).item()  # u·y, or -u·y where it is below the target
    assert loss.item() in (pytest.approx(component - 2), pytest.approx(component + 2))
