"""The multilayer perceptron: sizes and activation function."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.options import option
from trainer import models


def build(**values: Any) -> nn.Module:
    return models.build(option("model", "mlp", **values), inputs=64, outputs=5, kind="vectors")


def test_parameters_have_the_configured_sizes() -> None:
    net = build(hidden=[7, 3])
    assert [tuple(p.shape) for p in net.parameters()] == [(7, 64), (7,), (3, 7), (3,), (5, 3), (5,)]
    assert net(torch.rand(2, 64), None)[0].shape == (2, 5)
    assert [tuple(p.shape) for p in build(hidden=[]).parameters()] == [(5, 64), (5,)]


@pytest.mark.parametrize(("activation", "module"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("gelu", nn.GELU)])
def test_activation(activation: str, module: type[nn.Module]) -> None:
    found = [type(layer) for layer in build(hidden=[7, 3], activation=activation).layers]
    assert found == [nn.Linear, module, nn.Linear, module, nn.Linear]
