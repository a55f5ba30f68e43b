"""Where a run computes: the device, its threads, its precision, its determinism."""

import ctypes
import os
import platform
from contextlib import AbstractContextManager, nullcontext

import torch

from runner.errors import UserError
from trainer.config import Device

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT = 1 << 30  # bytes


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
    if device.type == "cpu":
        keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
    # use_deterministic_algorithms would import the compiler, torch._inductor, to set a flag of its own too.
    torch.set_deterministic_debug_mode("error" if config.deterministic else "default")
    torch.backends.cudnn.benchmark = not config.deterministic
    return device


def keep_freed_memory() -> None:
    """Has the C library keep what a step frees, up to KEPT bytes at once, since the next step needs it again.

    glibc by itself gives large blocks back, and takes them anew page by page: a tenth of some models' steps on the
    CPU. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        # An older one takes at most 32 MB; and where it takes nothing, setting the other would end its own adapting.
        if library.mallopt(M_MMAP_THRESHOLD, KEPT) or library.mallopt(M_MMAP_THRESHOLD, 1 << 25):
            library.mallopt(M_TRIM_THRESHOLD, KEPT)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch's tensor on the device; from pinned memory, so that a CUDA device need not be waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(config: Device, device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision for the forward pass; does nothing at float32."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, config.precision))


def loss_scaler(config: Device, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss at float16, whose small gradients would vanish; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
