"""The device of a run: its choice, threads, determinism and precision."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from runner.errors import UserError
from trainer.config.device import Device

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"  # of the environment; cuBLAS is not deterministic without it


def find(config: Device) -> torch.device:
    """The configured device; `auto` is the first available one. Raises UserError if it is not available."""
    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name in is_available if is_available[name]]
    if config.name == "auto":
        return torch.device(available[0])
    if config.name not in available:
        raise UserError(
            f"device={config.name}: not available on this machine or in this build of torch; available: "
            f"{', '.join(available)}"
        )
    return torch.device(config.name)


def prepare(config: Device) -> torch.device:
    """Returns the configured device, and sets threads and determinism for the whole process."""
    device = find(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    deterministic = config.deterministic != "none"
    if deterministic:
        os.environ.setdefault(CUBLAS_VARIABLE, ":4096:8")
    # use_deterministic_algorithms would also import the compiler, torch._inductor.
    torch.set_deterministic_debug_mode(config.deterministic if deterministic else "default")
    torch.backends.cudnn.benchmark = not deterministic
    return device


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a batch's tensor to the device, without waiting if a DataLoader has pinned the tensor's memory."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def autocast(config: Device, device: torch.device) -> AbstractContextManager[None]:
    """A context of automatic mixed precision for the forward pass; at float32 it does nothing."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


def loss_scaler(config: Device, device: torch.device) -> torch.amp.GradScaler:
    """A scaler of the loss for float16, where small gradients would underflow; disabled at other precisions."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
