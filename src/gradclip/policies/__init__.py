"""The clipping policies: one small dataclass each, a file a family. Nothing here imports torch.

Every file in this folder is imported, so that a new policy is one class (with a name of its own,
which puts it into `Policy.options`) and no line elsewhere.
"""

import importlib
import pkgutil

from gradclip.policies.base import ElementwisePolicy, Measured, Memory, Policy
from gradclip.policies.fixed import ClipByNorm, ClipByValue, NoClip

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ClipByNorm", "ClipByValue", "ElementwisePolicy", "Measured", "Memory", "NoClip", "Policy"]
