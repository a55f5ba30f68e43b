"""The clipping policies: one small dataclass each, one file per family. Nothing here imports torch.

Every file in this folder is imported, and a class with a `name` joins `Policy.options`, so a new policy needs no line
elsewhere.
"""

import importlib
import pkgutil

from gradclip.policies.adaptive import AdaGC, AutoClip, EMAClip, QuantileClip, ZClip
from gradclip.policies.base import BlockPolicy, ElementwisePolicy, LimitPolicy, Measured, Memory, Policy
from gradclip.policies.chain import Chain
from gradclip.policies.fixed import ClipByNorm, ClipByRMS, ClipByValue, DropStep, NoClip, Normalize, SoftClip
from gradclip.policies.spike import SpikeClip
from gradclip.policies.weights import AGC

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "AGC", "AdaGC", "AutoClip", "BlockPolicy", "Chain", "ClipByNorm", "ClipByRMS", "ClipByValue", "DropStep", "EMAClip",
    "ElementwisePolicy", "LimitPolicy", "Measured", "Memory", "NoClip", "Normalize", "Policy", "QuantileClip",
    "SoftClip", "SpikeClip", "ZClip",
]  # fmt: skip
