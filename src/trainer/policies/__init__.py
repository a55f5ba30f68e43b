"""This project's own clipping policies. Every module in this folder is imported, so that its policies can be chosen.

A new policy is two new files. One in this folder, which does not import torch at its top, for example double.py:

    from __future__ import annotations

    from dataclasses import dataclass
    from typing import TYPE_CHECKING

    from gradclip.fields import field
    from gradclip.policies import LimitPolicy, Measured, Memory

    if TYPE_CHECKING:
        from torch import Tensor


    @dataclass(kw_only=True)
    class Double(LimitPolicy):
        name: str = "double"
        rise: float = field("the largest ratio of a norm to the one of the step before", gt=1)

        def limits(self, measured: Measured, memory: Memory) -> tuple[Tensor, Memory]:
            infinity = measured.norms.new_full(measured.norms.shape, float("inf"))
            previous = memory.get("previous", infinity)
            limits = self.rise * previous
            return limits, {"previous": measured.norms.minimum(limits).where(measured.seen, previous)}

And one in conf/clip/ of the same name, double.yaml, with the values:

    defaults: [/schema/clip/double@_here_, _self_]

    name: double
    rise: 2.0

A subclass of LimitPolicy with a `name` joins `Policy.options` when it is defined, so nothing else changes.
`gradclip.policies.BlockPolicy.limits` says what it is given and returns; src/gradclip/policies/ has further examples.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
