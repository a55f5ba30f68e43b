"""Checks for the tests of the recurrent models."""

import torch
from torch import nn


def check_vectors_are_read_completely(net: nn.Module) -> None:
    """The outputs, [batch, outputs], depend on every element of the vectors, [batch, features], and on no other row.

    The gradient is compared with 0, since a change of the outputs can be below their precision.
    """
    vectors = torch.rand(3, 8, requires_grad=True)
    outputs, _ = net.eval()(vectors, None)
    assert outputs.shape == (3, 5)
    outputs[0].square().sum().backward()
    assert bool((vectors.grad[0] != 0).all())
    assert not vectors.grad[1:].any()


def check_dropout(net: nn.Module) -> None:
    """Dropout changes the outputs from call to call in training, and never in evaluation."""
    text = torch.randint(0, 11, (3, 12))
    net.train()
    assert not torch.equal(net(text, None)[0], net(text, None)[0])
    net.eval()
    assert torch.equal(net(text, None)[0], net(text, None)[0])
