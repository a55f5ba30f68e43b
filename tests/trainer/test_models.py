"""Every model on every data set that it takes: the interface of shapes, losses, gradients and hidden states."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runner.errors import UserError
from tests.trainer.options import option, option_names
from trainer import data, models
from trainer.config.data import Data
from trainer.config.model import Model

PAIRS = [
    (model, dataset)
    for model in option_names("model")
    for dataset in option_names("data")
    if Data.options[dataset].kind in Model.options[model].takes
]
MODELS_OF_CHARACTERS = [name for name in option_names("model") if "characters" in Model.options[name].takes]


def model_and_data(model: str, dataset: str) -> tuple[nn.Module, data.Dataset]:
    try:
        built = data.build(option("data", dataset, batch_size=4), seed=1)
    except UserError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    torch.manual_seed(0)
    kind = Data.options[dataset].kind
    return models.build(option("model", model), built.inputs, built.outputs, kind).eval(), built


@pytest.mark.parametrize("name", option_names("model"))
def test_a_model_declares_the_kinds_of_data_that_it_takes(name: str) -> None:
    takes = Model.options[name].takes
    assert takes
    if not set(takes) & {schema.kind for schema in Data.options.values()}:
        pytest.skip(f"no data set yields {' or '.join(takes)}")


@pytest.mark.parametrize(("model", "dataset"), PAIRS)
def test_a_batch_gives_a_finite_loss_and_gradients(model: str, dataset: str) -> None:
    net, built = model_and_data(model, dataset)
    batch = next(built.batches(0))
    outputs, _ = net(batch.inputs, None)
    loss = built.loss(outputs, batch.targets)
    assert loss.shape == ()
    loss.backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)
    for value in [loss, *built.metrics(outputs, batch.targets).values()]:
        assert value.shape == ()
        assert bool(value.isfinite())


@pytest.mark.parametrize(("model", "dataset"), PAIRS)
def test_the_loss_is_a_mean_over_rows(model: str, dataset: str) -> None:
    """The gradient of a batch is then the sum of those of its micro-batches, weighted by their rows."""
    net, built = model_and_data(model, dataset)
    batch = next(built.batches(0))

    def loss(rows: slice) -> Tensor:
        return built.loss(net(batch.inputs[rows], None)[0], batch.targets[rows])

    parts = (loss(slice(0, 1)) + 3 * loss(slice(1, 4))) / 4
    torch.testing.assert_close(parts, loss(slice(0, 4)))


@pytest.mark.parametrize(("model", "dataset"), PAIRS)
def test_the_same_seed_gives_the_same_weights(model: str, dataset: str) -> None:
    one, other = (model_and_data(model, dataset)[0].state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def character_model(name: str, **values: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(option("model", name, **values), inputs=11, outputs=5, kind="characters").eval()


@pytest.mark.parametrize("name", MODELS_OF_CHARACTERS)
def test_a_model_of_characters_continues_from_its_hidden_state(name: str) -> None:
    net, text = character_model(name), torch.randint(0, 11, (3, 12))
    outputs, _ = net(text, None)
    assert outputs.shape == (3, 12, 5)
    first, state = net(text[:, :7], None)
    second, _ = net(text[:, 7:], models.detach_state(state))
    torch.testing.assert_close(torch.cat([first, second], 1), outputs)
    without_state, _ = net(text[:, 7:], None)
    assert not torch.allclose(without_state, second)


def tensors(state: models.HiddenState) -> list[Tensor]:
    if state is None:
        return []
    return [state] if isinstance(state, Tensor) else [tensor for part in state for tensor in tensors(part)]


@pytest.mark.parametrize("name", MODELS_OF_CHARACTERS)
def test_a_hidden_state_is_detached_and_cloned(name: str) -> None:
    _, state = character_model(name)(torch.randint(0, 11, (3, 12)), None)
    detached, cloned = models.detach_state(state), models.clone_state(state, torch.device("cpu"))
    assert tensors(state)
    for original, one, other in zip(tensors(state), tensors(detached), tensors(cloned), strict=True):
        assert original.requires_grad
        assert not one.requires_grad
        assert not other.requires_grad
        assert torch.equal(one, original)
        assert torch.equal(other, original)
        assert one.data_ptr() == original.data_ptr()
        assert other.data_ptr() != original.data_ptr()


def test_detaching_and_cloning_none_give_none() -> None:
    assert models.detach_state(None) is None
    assert models.clone_state(None, torch.device("cpu")) is None


def test_cloning_keeps_the_structure_of_a_hidden_state() -> None:
    state = (torch.ones(2), (torch.zeros(3), None))
    cloned = models.clone_state(state, torch.device("cpu"))
    assert torch.equal(cloned[0], state[0])
    assert torch.equal(cloned[1][0], torch.zeros(3))
    assert cloned[1][1] is None
