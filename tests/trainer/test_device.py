"""Devices: chosen or refused, and configured for the process."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.errors import UserError
from tests.trainer.options import option
from tests.trainer.support import preflight_error, train_small
from trainer import device, loop
from trainer.data import Batch
from trainer.state import TrainState


def test_auto_chooses_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = option("device", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.find(config).type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.find(config).type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.find(config).type == "cuda"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_an_unavailable_device_is_a_user_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"device={name}: .* available: cpu"):
        device.find(option("device", name))


def test_prepare_sets_the_threads_unless_they_are_null() -> None:
    device.prepare(option("device", "cpu", threads=2))
    assert torch.get_num_threads() == 2
    device.prepare(option("device", "cpu", threads=None))
    assert torch.get_num_threads() == 2  # null does not change the number


@pytest.fixture
def nondeterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every step use an operation that has no deterministic kernel."""
    real = loop.forward_backward

    def forward_backward(state: TrainState, batch: Batch) -> torch.Tensor:
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        return real(state, batch)

    monkeypatch.setattr(loop, "forward_backward", forward_backward)


def test_an_operation_without_a_deterministic_kernel_warns_once(tmp_path: Path, nondeterministic: None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as in a program
        assert train_small(tmp_path).state == "finished"
    assert [str(warning.message).partition(",")[0] for warning in caught] == [
        "put_ does not have a deterministic implementation"
    ]


def test_an_operation_without_a_deterministic_kernel_raises_at_error(tmp_path: Path, nondeterministic: None) -> None:
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        train_small(tmp_path, "device.deterministic=error")


def test_an_operation_without_a_deterministic_kernel_runs_at_none(tmp_path: Path, nondeterministic: None) -> None:
    assert train_small(tmp_path, "device.deterministic=none").state == "finished"


@pytest.mark.parametrize(("choice", "enabled"), [("error", True), ("warn", True), ("none", False)])
def test_deterministic_kernels_are_enabled_unless_none(choice: str, enabled: bool) -> None:
    device.prepare(option("device", "cpu", deterministic=choice))
    assert torch.are_deterministic_algorithms_enabled() is enabled
    assert torch.is_deterministic_algorithms_warn_only_enabled() is (choice == "warn")
    assert torch.backends.cudnn.benchmark is not enabled


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_boolean_value_of_deterministic_is_refused_with_the_valid_ones(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = preflight_error([f"device.deterministic={value}"], capsys)
    assert line == f"device.deterministic={value}: must be warn, error or none"


def test_a_batch_is_not_pinned_by_the_training_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning waits for the copy to page-locked memory, so it is slower than a plain copy to the device."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pytest.fail("pinned"))
    sent: list[tuple[Any, ...]] = []

    class Recorded(torch.Tensor):
        def to(self, *arguments: Any, **named: Any) -> Any:
            sent.append((*arguments, *named.items()))
            return self

    device.send(torch.zeros(2).as_subclass(Recorded), torch.device("cuda"))
    assert sent == [(torch.device("cuda"), ("non_blocking", True))]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision_sets_autocast_and_the_loss_scaler(precision: str) -> None:
    config = option("device", "auto", precision=precision)
    cpu = torch.device("cpu")
    with device.autocast(config, cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)
    assert device.loss_scaler(config, cpu).is_enabled() is (precision == "float16")
