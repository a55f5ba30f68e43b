"""As many jobs at once as the machine has room for."""

import os
from pathlib import Path

from omegaconf import OmegaConf


def visible_gpus() -> list[str]:
    """The GPUs that CUDA will offer, by the names that CUDA_VISIBLE_DEVICES takes."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(driver.iterdir())))] if driver.is_dir() else []


def register() -> None:
    """Makes `at_once` known to the configuration."""
    OmegaConf.register_new_resolver("at_once", at_once, replace=True)


def at_once(device: str, threads: int | None) -> int:
    """Jobs that do not fight: one a GPU, and on the CPU as many as its cores hold with the threads of each."""
    if device in ("auto", "cuda") and (gpus := visible_gpus()):
        return len(gpus)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (threads or cores))
