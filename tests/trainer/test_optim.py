"""Optimizers are torch's own, fused where that is right; the learning rate is a function of the step."""

import logging
import math

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from trainer import optim
from trainer.project import compose

CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 2)).to(dtype)


@pytest.mark.parametrize("name", CLASSES)
def test_each_is_torchs_own_with_the_configured_values(name: str) -> None:
    config = compose(f"optimizer={name}", "optimizer.lr=0.125").optimizer
    optimizer = optim.build(config, net())
    assert type(optimizer) is CLASSES[name]
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.125
    for key in ("momentum", "nesterov", "eps", "alpha"):
        if hasattr(config, key):
            assert group[key] == getattr(config, key)
    if hasattr(config, "beta1"):
        assert group["betas"] == (config.beta1, config.beta2)
    assert group.get("fused", False) is (name != "rmsprop")


FUSED = {name: ["optimizer.fused=true", "optimizer.fused=false"] for name in CLASSES} | {"rmsprop": ["steps=1"]}


@pytest.mark.parametrize(("name", "fused"), [(name, each) for name, both in FUSED.items() for each in both])
def test_each_takes_torchs_own_steps_bit_by_bit(name: str, fused: str) -> None:
    """Across a saved and loaded state too, hooks included: what lies below torch's marks is all there is to them."""
    own, others = net(), net()
    ours = optim.build(
        compose(f"optimizer={name}", "optimizer.lr=0.1", "optimizer.weight_decay=0.01", fused).optimizer, own
    )
    groups = [dict(group) for group in ours.param_groups]
    names = {id(parameter): name for name, parameter in own.named_parameters()}
    by_name = dict(others.named_parameters())
    for group in groups:
        group["params"] = [by_name[names[id(parameter)]] for parameter in group["params"]]
    torchs = CLASSES[name](groups)
    hooked: list[str] = []
    ours.register_step_post_hook(lambda *_: hooked.append("instance"))
    everywhere = register_optimizer_step_post_hook(lambda *_: hooked.append("all"))
    for step in range(6):
        for model, optimizer in ((own, ours), (others, torchs)):
            optimizer.zero_grad()
            model(torch.full((3, 9), 0.1 * step)).square().sum().backward()
            optimizer.step()
            if step == 2:
                optimizer.load_state_dict(optimizer.state_dict())
    everywhere.remove()
    for one, other in zip(own.parameters(), others.parameters(), strict=True):
        assert torch.equal(one, other)
    assert hooked == ["instance", "all", "all"] * 6
    assert ours.state_dict().keys() == torchs.state_dict().keys()


def test_weight_decay_leaves_the_named_parameters_alone() -> None:
    model = net()
    config = compose("optimizer=adamw", "optimizer.weight_decay=0.5", "optimizer.no_decay=[*bias,2.weight]").optimizer
    optimizer = optim.build(config, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.5, "0.bias": 0.0, "2.weight": 0.0, "2.bias": 0.0}  # fmt: skip


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_takes_the_same_step(name: str) -> None:
    after = []
    for fused in ("true", "false"):
        model = net()
        optimizer = optim.build(
            compose(f"optimizer={name}", "optimizer.lr=0.1", f"optimizer.fused={fused}").optimizer, model
        )
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(3, 9)).square().sum().backward()
            optimizer.step()
        after.append([p.detach().clone() for p in model.parameters()])
    for one, other in zip(*after, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_is_off_where_torch_would_skip_elements(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        optimizer = optim.build(compose("optimizer.lr=0.5").optimizer, net(dtype))
    assert not optimizer.param_groups[0]["fused"]
    assert "optimizer.fused: off" in caplog.text


def test_fused_is_turned_off_where_a_gradient_lies_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = optim.build(compose("optimizer.lr=0.5").optimizer, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optim.mend_fused(optimizer)
    assert optimizer.param_groups[0]["fused"]
    model[0].weight.grad = torch.arange(63.0).view(9, 7).t()
    expected = model[0].weight.detach() - 0.5 * model[0].weight.grad
    with caplog.at_level(logging.WARNING):
        optim.mend_fused(optimizer)
    assert "optimizer.fused: off" in caplog.text
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), expected)


def rates(*overrides: str) -> list[float]:
    config = compose("steps=10", "optimizer.lr=2.0", *overrides)
    optimizer = optim.build(config.optimizer, net())
    found = [optim.set_rate(optimizer, config, step) for step in range(1, 11)]
    assert optimizer.param_groups[-1]["lr"] == found[-1]
    return found


def test_constant() -> None:
    assert rates() == [2.0] * 10
    assert rates("schedule.warmup=3") == pytest.approx([0.5, 1.0, 1.5] + [2.0] * 7)


def test_linear() -> None:
    assert rates("schedule=linear") == pytest.approx([2.0 * (1 - k / 9) for k in range(10)])
    assert rates("schedule=linear", "schedule.final=0.5")[-1] == pytest.approx(1.0)
    warm = rates("schedule=linear", "schedule.warmup=4")
    assert warm == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 1.6, 1.2, 0.8, 0.4, 0.0])


def test_cosine() -> None:
    assert rates("schedule=cosine") == pytest.approx([1 + math.cos(math.pi * k / 9) for k in range(10)])
    assert rates("schedule=cosine", "schedule.final=0.1")[-1] == pytest.approx(0.2)


def test_a_single_step_has_a_rate() -> None:
    config = compose("steps=1", "schedule=cosine", "optimizer.lr=2.0")
    assert optim.set_rate(optim.build(config.optimizer, net()), config, 1) == 2.0
