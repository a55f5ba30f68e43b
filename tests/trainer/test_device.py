"""Devices: found or refused, and set up for the process."""

import platform
import subprocess
import sys

import pytest
import torch

from runner.errors import UserError
from tests.support import ENV
from trainer import device
from trainer.project import compose


def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose().device
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
        device.find(compose(f"device={name}").device)


def test_threads_and_determinism() -> None:
    device.prepare(compose("device=cpu", "device.threads=2", "device.deterministic=true").device)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    device.prepare(compose("device=cpu", "device.threads=null", "device.deterministic=false").device)
    assert torch.get_num_threads() == 2  # null leaves the choice alone
    assert not torch.are_deterministic_algorithms_enabled()


FAULTS = """
import resource, torch
from trainer import device
torch.set_num_threads(1)
for keeps in (False, True):
    if keeps:
        device.keep_freed_memory()
    torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory is set up")
def test_what_a_step_frees_is_kept_for_the_next() -> None:
    answer = subprocess.run([sys.executable, "-c", FAULTS], env=ENV, capture_output=True, text=True, check=True)
    given_back, kept = map(int, answer.stdout.split())
    assert given_back > 100_000  # 20 blocks of 64 MB, page by page
    assert kept < given_back / 5  # the heap may grow for the first few


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision(precision: str) -> None:
    config = compose(f"device.precision={precision}", "clip.nonfinite=drop").device
    cpu = torch.device("cpu")
    with device.autocast(config, cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)
    assert device.loss_scaler(config, cpu).is_enabled() is (precision == "float16")
