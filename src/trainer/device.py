"""Where a run computes: the device, its threads, its precision, its determinism."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from runner.errors import UserError
from trainer.config.device import Device


def find(config: Device) -> torch.device:
    """The device that a configuration means; raises UserError if this machine has none of the kind."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.name == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if not there[config.name]:
        have = ", ".join(name for name, found in there.items() if found)
        raise UserError(f"device={config.name}: this machine (or this build of torch) has none; there is {have}")
    return torch.device(config.name)


def prepare(config: Device) -> torch.device:
    """Finds the device and sets torch up for it, for the whole process."""
    device = find(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    deterministic = config.deterministic != "none"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
    # use_deterministic_algorithms would import the compiler, torch._inductor, to set a flag of its own too.
    torch.set_deterministic_debug_mode(config.deterministic if deterministic else "default")
    torch.backends.cudnn.benchmark = not deterministic
    return device


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch's tensor on the device. The copy from pinned memory, as a DataLoader returns it, waits for nothing."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def autocast(config: Device, device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision for the forward pass; does nothing at float32."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


def loss_scaler(config: Device, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss at float16, whose small gradients would vanish; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
