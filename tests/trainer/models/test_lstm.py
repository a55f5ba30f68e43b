"""The long short-term memory: its inputs, dropout, and the sizes of its parameters."""

from typing import Any

import torch
from torch import nn

from tests.trainer.models.recurrent import check_dropout, check_vectors_are_read_completely
from tests.trainer.options import option
from trainer import models


def build(kind: str = "characters", **values: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(option("model", "lstm", **values), inputs=11, outputs=5, kind=kind)


def test_the_output_depends_on_every_element_of_a_vector() -> None:
    check_vectors_are_read_completely(build("vectors"))


def test_dropout_is_active_in_training_only() -> None:
    check_dropout(build(dropout=0.5, layers=2))


def test_parameters_have_the_configured_sizes() -> None:
    shapes = {name: tuple(p.shape) for name, p in build(embedding=3, hidden=7, layers=2).named_parameters()}
    assert shapes["embedding.weight"] == (11, 3)
    assert shapes["recurrent.weight_ih_l0"] == (28, 3)
    assert shapes["recurrent.weight_hh_l1"] == (28, 7)
    assert shapes["output.weight"] == (5, 7)
