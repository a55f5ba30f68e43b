"""The deep linear network: each layer multiplies lengths by its gain."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from tests.trainer.options import option
from trainer import models


def build(width: int, **values: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(option("model", "deep_linear", **values), inputs=width, outputs=width, kind="directions")


@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_every_layer_multiplies_lengths_by_its_gain(gain: float) -> None:
    net = build(16, layers=7, gain=gain, bias=True)
    outputs, _ = net(normalize(torch.randn(1, 16)), None)
    assert outputs.norm().item() == pytest.approx(gain**7, rel=1e-5)
    outputs.backward(normalize(torch.randn(1, 16)))
    for index, layer in enumerate(net.layers):
        assert layer.weight.grad.norm().item() == pytest.approx(gain**6, rel=1e-4)
        assert layer.bias.grad.norm().item() == pytest.approx(gain ** (6 - index), rel=1e-4)


def test_layers_have_no_bias_with_bias_false() -> None:
    assert all(layer.bias is None for layer in build(4, bias=False).layers)
