"""Devices: found or refused, and set up for the process."""

import pytest
import torch

from runner.errors import UserError
from tests.trainer.options import option
from trainer import device


def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = option("device", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.find(config).type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.find(config).type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.find(config).type == "cuda"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_a_mistake(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"device={name}: .* there is cpu"):
        device.find(option("device", name))


def test_threads_and_determinism() -> None:
    device.prepare(option("device", "cpu", threads=2, deterministic=True))
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    device.prepare(option("device", "cpu", threads=None, deterministic=False))
    assert torch.get_num_threads() == 2  # null leaves the choice alone
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision(precision: str) -> None:
    config = option("device", "auto", precision=precision)
    cpu = torch.device("cpu")
    with device.autocast(config, cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)
    assert device.loss_scaler(config, cpu).is_enabled() is (precision == "float16")
