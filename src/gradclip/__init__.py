"""Gradient clipping for any PyTorch training loop, with the norms before and after.

    from gradclip import Clipper, ClipByNorm

    clipper = Clipper(model, ClipByNorm(max=1.0))
    loss.backward()
    report = clipper.clip()  # the gradients are changed in place
    optimizer.step()
    print(report.before, report.after)

Importing this package does not import torch: policies are plain dataclasses, and a configuration
can be checked without waiting for torch. Accessing `Clipper` or `ClipReport` imports it.
"""

from typing import TYPE_CHECKING, Any

from gradclip.errors import ClipCheckError, InvalidField, NonFiniteGradientError, UnmatchedPatternError
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockPolicy,
    Chain,
    ClipByNorm,
    ClipByRMS,
    ClipByValue,
    DropStep,
    ElementwisePolicy,
    EMAClip,
    LimitPolicy,
    Measured,
    NoClip,
    Normalize,
    Policy,
    QuantileClip,
    SoftClip,
    SpikeClip,
    ZClip,
)

if TYPE_CHECKING:
    from gradclip.clipper import Clipper, ClipReport

__all__ = [
    "AGC", "AdaGC", "AutoClip", "BlockPolicy", "Chain", "ClipByNorm", "ClipByRMS", "ClipByValue", "ClipCheckError",
    "ClipReport", "Clipper", "DropStep", "EMAClip", "ElementwisePolicy", "InvalidField", "LimitPolicy", "Measured",
    "NoClip", "NonFiniteGradientError", "Normalize", "Policy", "QuantileClip", "SoftClip", "SpikeClip",
    "UnmatchedPatternError", "ZClip",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("Clipper", "ClipReport"):
        from gradclip import clipper

        return getattr(clipper, name)
    raise AttributeError(f"module 'gradclip' has no attribute {name!r}")
