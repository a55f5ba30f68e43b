"""Several policies, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradclip.errors import InvalidField
from gradclip.fields import field
from gradclip.policies.base import Policy


@dataclass(kw_only=True)
class Chain(Policy):
    """Applies its links in their order, each any policy with an include and exclude of its own.

    `value` and then `norm`, or another threshold for `embed.*` than for the rest; optax `chain` and
    `partition`. What to do with non-finite gradients is said here, once for all links.
    """

    name: str = "chain"
    links: dict[str, Policy] = field("the policies by labels of your own, in their order")

    kind: ClassVar[str] = "composite"
    scopes: ClassVar[tuple[str, ...]] = ("model",)
    max_is_cap: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.links:
            raise InvalidField("links", self.links, "at least one policy")
        for name, default in (("max", None), ("include", []), ("exclude", []), ("norm_type", 2.0)):
            if getattr(self, name) != default:
                raise InvalidField(name, getattr(self, name), "set in a link: clip.links.<label>." + name)
        for label, link in self.links.items():
            if link.nonfinite != "error" or link.kind == "composite":
                raise InvalidField(f"links.{label}", link.name, "a plain policy; nonfinite is said for the whole chain")
