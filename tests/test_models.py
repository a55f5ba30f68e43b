"""Models: shapes, states, and the starting points that the configuration names."""

import pytest
import torch
from torch import nn

from tests.support import compose
from trainer import models
from trainer.config import GROUPS


def build(*overrides: str, kind: str, inputs: int = 11, outputs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return models.build(compose(*overrides).model, inputs, outputs, kind)


@pytest.mark.parametrize("model", ["rnn", "lstm"])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_models_read_characters(model: str, layers: int) -> None:
    net = build(f"model={model}", f"model.layers={layers}", kind="characters").eval()
    text = torch.randint(0, 11, (3, 12))
    whole, _ = net(text, None)
    assert whole.shape == (3, 12, 5)
    first, state = net(text[:, :7], None)
    second, _ = net(text[:, 7:], models.detach(state))
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


@pytest.mark.parametrize("model", ["rnn", "lstm"])
def test_recurrent_models_read_vectors_number_by_number(model: str) -> None:
    net = build(f"model={model}", "data=digits", kind="vectors", inputs=64).eval()
    vectors = torch.rand(3, 64)
    outputs, _ = net(vectors, None)
    assert outputs.shape == (3, 5)
    changed = vectors.clone()
    changed[0, 0] += 1
    assert not torch.equal(net(changed, None)[0][0], outputs[0])  # the first number still counts after the last


def test_mlp() -> None:
    net = build("model=mlp", "data=digits", "model.hidden=[7,3]", kind="vectors", inputs=64)
    assert [tuple(p.shape) for p in net.parameters()] == [(7, 64), (7,), (3, 7), (3,), (5, 3), (5,)]
    assert net(torch.rand(2, 64), None)[0].shape == (2, 5)
    bare = build("model=mlp", "data=digits", "model.hidden=[]", kind="vectors", inputs=64)
    assert [tuple(p.shape) for p in bare.parameters()] == [(5, 64), (5,)]


def test_identity_start() -> None:
    net = build("model.init=identity", "model.nonlinearity=relu", "model.layers=2", kind="characters")
    for name, parameter in net.named_parameters():
        if "weight_hh" in name:
            assert torch.equal(parameter, torch.eye(128))
        if "recurrent.bias" in name:
            assert not parameter.any()


def test_nonlinearity() -> None:
    assert build("model.nonlinearity=relu", kind="characters").recurrent.nonlinearity == "relu"


@pytest.mark.parametrize("model", ["rnn", "lstm"])
def test_dropout(model: str) -> None:
    net = build(f"model={model}", "model.dropout=0.5", "model.layers=2", kind="characters").train()
    text = torch.randint(0, 11, (3, 12))
    assert not torch.equal(net(text, None)[0], net(text, None)[0])
    net.eval()
    assert torch.equal(net(text, None)[0], net(text, None)[0])


def test_every_model_says_what_it_takes() -> None:
    kinds = {schema.kind for schema in GROUPS["data"].options.values()}
    for schema in GROUPS["model"].options.values():
        assert schema.takes
        assert set(schema.takes) <= kinds
