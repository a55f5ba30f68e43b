"""The schemas of conf/device/: the device of a run, its CPU threads, determinism and precision."""

from dataclasses import dataclass

from gradclip.fields import Option
from runner.config import field


@dataclass(kw_only=True)
class Device(Option):
    """Base of the devices."""

    threads: int | None = field("CPU threads; null leaves the number to torch", ge=1, le=1024)
    # Not "off" instead of "none", since YAML reads off as false.
    deterministic: str = field(
        "warn or error: torch's deterministic kernels, and a warning or an error where it has none; none: any kernels",
        choices=("warn", "error", "none"),
    )
    precision: str = field(
        "precision of the forward pass, by automatic mixed precision; float16 scales the loss",
        choices=("float32", "bfloat16", "float16"),
    )


@dataclass(kw_only=True)
class Auto(Device):
    name: str = "auto"


@dataclass(kw_only=True)
class CPU(Device):
    name: str = "cpu"


@dataclass(kw_only=True)
class CUDA(Device):
    name: str = "cuda"


@dataclass(kw_only=True)
class MPS(Device):
    name: str = "mps"
