"""Optimizers: configured values, fused steps where they are correct, and saved states."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from runner.errors import UserError
from tests.trainer.options import option, option_names
from trainer import optimizers
from trainer.config.optimizer import Optimizer
from trainer.config.optimizer.fused import Fused

ALL = option_names("optimizer")
FUSED = [name for name in ALL if isinstance(option("optimizer", name), Fused)]
CLASSES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 2)).to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((3, 9), 0.1 * step)).square().sum().backward()
        optimizer.step()


def stateful_option(name: str) -> Optimizer:
    """The option with momentum, if it has any, so that the optimizer keeps a state."""
    config: Optimizer = option("optimizer", name, lr=0.01, no_decay=["*bias"])
    return replace(config, momentum=0.9) if hasattr(config, "momentum") else config


@pytest.mark.parametrize("name", ALL)
def test_the_configured_values_reach_every_group(name: str) -> None:
    values = {"lr": 0.125, "weight_decay": 0.25, "no_decay": ["*bias"]}
    config = option("optimizer", name, **values)
    optimizer = optimizers.build(config, net())
    decayed, others = optimizer.param_groups
    assert (decayed["lr"], others["lr"]) == (0.125, 0.125)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.25, 0.0)
    assert bool(decayed.get("fused")) is isinstance(config, Fused)


@pytest.mark.parametrize("name", sorted(CLASSES.keys() & set(ALL)))
def test_the_optimizer_is_the_class_of_torch_with_the_configured_values(name: str) -> None:
    config = option("optimizer", name)
    optimizer = optimizers.build(config, net())
    assert type(optimizer) is getattr(torch.optim, CLASSES[name])
    group = optimizer.param_groups[0]
    for key in ("momentum", "nesterov", "eps", "alpha"):
        if hasattr(config, key):
            assert group[key] == getattr(config, key)
    if hasattr(config, "beta1"):
        assert group["betas"] == (config.beta1, config.beta2)


@pytest.mark.parametrize("name", ALL)
def test_no_decay_excludes_the_matching_parameters(name: str) -> None:
    model = net()
    config = option("optimizer", name, weight_decay=0.5, no_decay=["*bias", "2.weight"])
    decay = {id(p): group["weight_decay"] for group in optimizers.build(config, model).param_groups
             for p in group["params"]}  # fmt: skip
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.5, "0.bias": 0.0, "2.weight": 0.0, "2.bias": 0.0}  # fmt: skip
    assert len(optimizers.build(replace(config, no_decay=[]), model).param_groups) == 1


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_no_decay_pattern_that_matches_no_parameter_is_refused(weight_decay: float) -> None:
    config = option("optimizer", ALL[0], weight_decay=weight_decay, no_decay=["*.bias", "*.bais"])
    with pytest.raises(UserError) as error:
        optimizers.build(config, net())
    assert str(error.value) == (
        "optimizer.no_decay: the pattern '*.bais' matches no parameter; there are 0.weight, 0.bias, 2.weight, 2.bias"
    )


@pytest.mark.parametrize("name", ALL)
def test_the_default_no_decay_fits_a_model_without_biases(name: str) -> None:
    (group,) = optimizers.build(option("optimizer", name), nn.Linear(2, 2, bias=False)).param_groups
    assert len(group["params"]) == 1


@pytest.mark.parametrize("name", ALL)
def test_set_lr_reaches_every_group(name: str) -> None:
    model = net()
    optimizer = optimizers.build(option("optimizer", name, weight_decay=0.0, no_decay=["*bias"]), model)
    optimizers.set_lr(optimizer, 0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, steps=1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_step_equals_the_unfused_one(name: str) -> None:
    models = [net(), net()]
    for fused, model in enumerate(models):
        train(model, optimizers.build(option("optimizer", name, lr=0.01, fused=bool(fused)), model))
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("case", ["bfloat16", "float16", "slice"])
def test_fused_is_disabled_where_the_step_of_torch_is_wrong(
    name: str, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = net() if case == "slice" else net(getattr(torch, case))
    if case == "slice":
        model[0].weight = nn.Parameter(torch.ones(7, 18)[:, ::2])
    with caplog.at_level(logging.WARNING):
        optimizer = optimizers.build(option("optimizer", name), model)
    assert not any(group["fused"] for group in optimizer.param_groups)
    assert "optimizer.fused: disabled" in caplog.text


def image_net(memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 2)
    model.weight = nn.Parameter(model.weight.detach().contiguous(memory_format=memory_format))
    return model


def gradient(model: nn.Module, step: int, memory_format: torch.memory_format) -> torch.Tensor:
    values = torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(step))
    return values.contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("layouts", [(torch.contiguous_format, torch.channels_last),
                                     (torch.channels_last, torch.contiguous_format)])  # fmt: skip
def test_match_strides_makes_the_fused_step_correct(
    name: str, layouts: tuple[torch.memory_format, torch.memory_format]
) -> None:
    """The unfused step is the reference; the fused one differs from it unless match_strides is called."""
    of_weight, of_gradient = layouts
    models = {case: image_net(of_weight) for case in ("unfused", "matched", "unmatched")}
    built = {case: optimizers.build(option("optimizer", name, lr=0.01, fused=case != "unfused"), model)
             for case, model in models.items()}  # fmt: skip
    for step in range(4):
        for case, model in models.items():
            model.weight.grad = gradient(model, step, of_gradient)
            if case == "matched":
                optimizers.match_strides(built[case])
                assert torch.equal(model.weight.grad, gradient(model, step, of_gradient))
            built[case].step()
        torch.testing.assert_close(models["matched"].weight, models["unfused"].weight)
        assert not torch.allclose(models["unmatched"].weight, models["unfused"].weight)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", FUSED)
def test_match_strides_does_not_change_other_gradients(name: str, fused: bool) -> None:
    model = image_net()
    optimizer = optimizers.build(option("optimizer", name, fused=fused), model)
    for of_gradient in (torch.contiguous_format,) if fused else (torch.contiguous_format, torch.channels_last):
        model.weight.grad, model.bias.grad = gradient(model, 0, of_gradient), None
        same = model.weight.grad
        optimizers.match_strides(optimizer)
        assert model.weight.grad is same
        assert model.bias.grad is None
    sparse = torch.zeros(model.weight.shape).to_sparse()
    model.weight.grad = sparse
    optimizers.match_strides(optimizer)
    assert model.weight.grad is sparse


@pytest.mark.parametrize("name", ALL)
def test_a_loaded_optimizer_takes_the_same_steps(name: str) -> None:
    config, model = stateful_option(name), net()
    optimizer = optimizers.build(config, model)
    train(model, optimizer)
    other = copy.deepcopy(model)
    resumed = optimizers.build(config, other)
    optimizers.load_state(resumed, copy.deepcopy(optimizer.state_dict()))
    for one, each in ((model, optimizer), (other, resumed)):
        train(one, each)
    for one, each in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, each)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("built", [True, False])
def test_loading_a_state_does_not_change_fused(name: str, built: bool) -> None:
    def optimizer(fused: bool) -> torch.optim.Optimizer:
        return optimizers.build(option("optimizer", name, lr=0.5, fused=fused, no_decay=["*bias"]), net())

    saved, loaded = optimizer(not built).state_dict(), optimizer(built)
    optimizers.load_state(loaded, saved)
    assert [group["fused"] for group in loaded.param_groups] == [built] * 2
    assert [group["fused"] for group in saved["param_groups"]] == [not built] * 2  # the caller's state is not changed


@pytest.mark.parametrize("name", ALL)
def test_loading_a_state_of_another_model_is_refused(name: str) -> None:
    model = net()
    optimizer = optimizers.build(stateful_option(name), model)
    train(model, optimizer)
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"argument 2 is longer"):
        optimizers.load_state(optimizer, state | {"param_groups": state["param_groups"][:1]})
    tensors = {key: value for key, value in state["state"].get(0, {}).items() if isinstance(value, torch.Tensor)}
    for key in tensors.keys() - {"step"}:
        mismatched = copy.deepcopy(state)
        mismatched["state"][0][key] = torch.zeros(3)
        with pytest.raises(ValueError, match=rf"{key} has shape \(3,\)"):
            optimizers.load_state(optimizer, mismatched)
