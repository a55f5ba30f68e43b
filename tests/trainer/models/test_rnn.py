"""The plain recurrent network: its inputs, dropout, initialization and nonlinearity."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.models.recurrent import check_dropout, check_vectors_are_read_completely
from tests.trainer.options import option
from trainer import models


def build(kind: str = "characters", **values: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(option("model", "rnn", **values), inputs=11, outputs=5, kind=kind)


def test_the_output_depends_on_every_element_of_a_vector() -> None:
    check_vectors_are_read_completely(build("vectors"))


def test_dropout_is_active_in_training_only() -> None:
    check_dropout(build(dropout=0.5, layers=2))


def test_identity_initialization() -> None:
    net = build(init="identity", nonlinearity="relu", hidden=20, layers=2)
    for name, parameter in net.named_parameters():
        if "weight_hh" in name:
            assert torch.equal(parameter, torch.eye(20))
        if "recurrent.bias" in name:
            assert not parameter.any()


def test_orthogonal_initialization_and_gain() -> None:
    net = build(init="orthogonal", gain=1.5, hidden=20)
    weight = net.recurrent.weight_hh_l0.detach()
    torch.testing.assert_close(weight @ weight.T, 2.25 * torch.eye(20), atol=1e-5, rtol=0)
    assert not net.recurrent.bias_hh_l0.any()
    plain, double = (build(gain=gain).recurrent.weight_hh_l0 for gain in (1.0, 2.0))
    assert torch.equal(2 * plain, double)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_nonlinearity(nonlinearity: str) -> None:
    assert build(nonlinearity=nonlinearity).recurrent.nonlinearity == nonlinearity
