"""Outcome: what one policy, or all policies of a chain, measured and left at one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradclip.scopes import Blocks


@dataclass
class Outcome:
    """What a policy measured, and what it left.

    norms, limits: [blocks]. limited: [blocks], whether the block exceeded its limit. after: the parameters' 2-norms
    after clipping, [parameters]. blocks: those of each link of a chain, by its label. reached, elements: of elementwise
    policies, the number of elements at their bound, 0-d, None if they can still be counted, and of all elements.
    """

    norms: Tensor
    limits: Tensor
    limited: Tensor
    after: Tensor
    blocks: dict[str, Blocks]
    elements: Tensor | int | None = None
    reached: Tensor | None = None
    dropped: bool = False

    def labels(self) -> tuple[str, ...]:
        """The blocks' names, [blocks]; in a chain each after the label of its link."""
        return tuple(f"{link}: {name}" if link else name for link, b in self.blocks.items() for name in b.labels)

    def key(self) -> object:
        """Identifies the blocks: it is equal for equal blocks, and cheaper than their names."""
        return tuple((link, blocks.key) for link, blocks in self.blocks.items())


def merge(outcomes: dict[str, Outcome]) -> Outcome:
    """Combines the outcomes of all policies of a chain, by their labels, into one."""
    (*_, last), every = outcomes.values(), list(outcomes.values())
    if len(every) == 1:
        return last
    merged = Outcome(
        norms=torch.cat([outcome.norms for outcome in every]),
        limits=torch.cat([outcome.limits for outcome in every]),
        limited=torch.cat([outcome.limited for outcome in every]),
        after=last.after,
        blocks={label: blocks for label, outcome in outcomes.items() for blocks in outcome.blocks.values()},
        dropped=any(outcome.dropped for outcome in every),
    )
    if any(outcome.reached is not None for outcome in every):  # a block of another link counts as an element
        merged.reached = torch.stack([o.limited.sum() if o.reached is None else o.reached for o in every]).sum()
        merged.elements = sum(len(o.limited) if o.elements is None else o.elements for o in every)
    return merged
