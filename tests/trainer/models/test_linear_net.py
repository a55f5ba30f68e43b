"""The smallest network: y = x at the start, and a layer without gradients."""

import torch

from tests.trainer.options import option
from trainer import models


def test_it_starts_as_the_identity_and_leaves_a_layer_without_gradients() -> None:
    net = models.build(option("model", "linear_net"), inputs=1, outputs=1, kind="points")
    inputs = torch.tensor([[-2.0], [3.0]])
    outputs, _ = net(inputs, None)
    assert torch.equal(outputs, inputs)
    outputs.sum().backward()
    assert (net.linear.weight.grad.item(), net.linear.bias.grad.item()) == (1.0, 2.0)
    assert all(parameter.grad is None for parameter in net.linear2.parameters())
