"""Several policies, one after the other."""

from __future__ import annotations

from typing import ClassVar

from gradclip.errors import InvalidField
from gradclip.fields import checked_dataclass, field
from gradclip.policies.base import Policy, policy_instance

KEYS_OF_LINKS = ("max", "scope", "norm_type", "include", "exclude", "schedule", "final", "over")


@checked_dataclass
class Chain(Policy):
    """Applies its links in their order, each any other policy with an include and exclude of its own.

    Source: optax, `chain` and `partition`. For example `value` and then `norm`, or another threshold for `embed.*` than
    for the rest. The chain's `nonfinite` holds for all links.

    >>> import torch
    >>> from gradclip import Chain, ClipByNorm, ClipByValue, Clipper
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 40.0])
    >>> chain = Chain(links={"elements": ClipByValue(max=4.0), "whole": ClipByNorm(max=1.0)})
    >>> clipper = Clipper([("weight", weight)], chain)
    >>> clipper.clip()
    gradient norm 40.11 -> 1 (2 of 2 blocks limited)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """

    name: str = "chain"
    links: dict[str, Policy] = field("the policies by labels of your own, in their order")

    kind: ClassVar[str] = "composite"
    removed: ClassVar[dict[str, str]] = {key: f"it is set in a link: clip.links.<label>.{key}" for key in KEYS_OF_LINKS}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.links, dict) or not self.links:
            raise InvalidField("links", self.links, "at least one policy, by a label: {'first': ClipByNorm(max=1.0)}")
        for label, link in self.links.items():
            policy_instance(link)
            if link.kind == "composite":
                raise InvalidField(f"links.{label}", link.name, "a policy other than chain")
            if link.nonfinite != "error":
                raise InvalidField(
                    f"links.{label}.nonfinite", link.nonfinite, "error, since clip.nonfinite holds for all links"
                )
