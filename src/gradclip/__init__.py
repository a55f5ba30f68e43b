"""Gradient clipping for any PyTorch training loop, with the norms before and after.

    from gradclip import Clipper, ClipByNorm

    clipper = Clipper(model, ClipByNorm(max=1.0))
    loss.backward()
    report = clipper.clip()  # the gradients are changed in place
    optimizer.step()
    print(report)

Importing this package does not import torch: policies are plain dataclasses, and a configuration can be checked without
waiting for torch. The first access to a name that needs torch, such as `Clipper`, imports it.
"""

import importlib
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
    from gradclip.clipper import Clipper
    from gradclip.functional import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
    from gradclip.report import ClipReport
    from gradclip.tally import ClipSummary

__version__ = "0.2.0"

__all__ = [
    "AGC", "AdaGC", "AutoClip", "BlockPolicy", "Chain", "ClipByNorm", "ClipByRMS", "ClipByValue", "ClipCheckError",
    "ClipReport", "ClipSummary", "Clipper", "DropStep", "EMAClip", "ElementwisePolicy", "InvalidField",
    "LimitPolicy", "Measured", "NoClip", "NonFiniteGradientError", "Normalize", "Policy", "QuantileClip",
    "SoftClip", "SpikeClip", "UnmatchedPatternError", "ZClip", "__version__", "clip_grad_norm_", "clip_grad_value_",
    "clip_grads_with_norm_", "get_total_norm",
]  # fmt: skip

_IMPORTS_TORCH = {
    "Clipper": "clipper",
    "ClipReport": "report",
    "ClipSummary": "tally",
    "clip_grad_norm_": "functional",
    "clip_grad_value_": "functional",
    "clip_grads_with_norm_": "functional",
    "get_total_norm": "functional",
}


def __getattr__(name: str) -> Any:
    if name in _IMPORTS_TORCH:
        return getattr(importlib.import_module(f"gradclip.{_IMPORTS_TORCH[name]}"), name)
    raise AttributeError(f"module 'gradclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
