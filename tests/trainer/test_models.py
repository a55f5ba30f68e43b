"""Models: shapes, states, and the starting points that the configuration names."""

import pytest
import torch
from torch import nn

from trainer import models
from trainer.config import GROUPS
from trainer.project import compose


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


def test_orthogonal_start_and_gain() -> None:
    net = build("model.init=orthogonal", "model.gain=1.5", "model.hidden=20", kind="characters")
    weight = net.recurrent.weight_hh_l0.detach()
    torch.testing.assert_close(weight @ weight.T, 2.25 * torch.eye(20), atol=1e-5, rtol=0)
    assert not net.recurrent.bias_hh_l0.any()
    plain, double = (build(f"model.gain={gain}", kind="characters").recurrent.weight_hh_l0 for gain in (1, 2))
    assert torch.equal(2 * plain, double)


@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_deep_linear_multiplies_every_length_by_its_gain(gain: float) -> None:
    net = build("model=deep_linear", "data=direction", "model.layers=7", f"model.gain={gain}", "model.bias=true",
                kind="directions", inputs=16)  # fmt: skip
    vector = torch.nn.functional.normalize(torch.randn(1, 16))
    outputs, _ = net(vector, None)
    assert outputs.norm().item() == pytest.approx(gain**7, rel=1e-5)
    above = torch.nn.functional.normalize(torch.randn(1, 16))
    outputs.backward(above)
    for number, layer in enumerate(net.layers):
        assert layer.weight.grad.norm().item() == pytest.approx(gain**6, rel=1e-4)
        assert layer.bias.grad.norm().item() == pytest.approx(gain ** (6 - number), rel=1e-4)
    bare = build("model=deep_linear", "data=direction", kind="directions", inputs=4)
    assert all(layer.bias is None for layer in bare.layers)


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
