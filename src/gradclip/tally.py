"""Tally and ClipSummary: what clipping did over many steps."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

WINDOW = 1000  # the last norms, of which the quantiles are taken
QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)
SHOWN = 5  # blocks in a printed summary


@dataclass(frozen=True)
class ClipSummary:
    """What a Clipper did since it was made; printing it gives a few readable lines.

    steps: calls of `clip()` that returned. limited: the share of them that limited any block. dropped: their number
    that dropped the step. norms: the number of finite norms among the last 1,000. quantiles: of these norms before
    clipping, by their probability, 1.0 for the largest. blocks: the share of steps in which each block was limited, the
    most often limited first.
    """

    steps: int
    limited: float
    dropped: int
    norms: int
    quantiles: dict[float, float]
    blocks: dict[str, float]

    def __str__(self) -> str:
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        lines = [f"{self.steps} steps: {100 * self.limited:.3g} % limited{dropped}"]
        if self.quantiles:
            names = {0.5: "median", 1.0: "largest"}
            shown = (f"{names.get(p, f'{100 * p:g} %')} {value:.4g}" for p, value in self.quantiles.items())
            lines.append(f"gradient norm before clipping, last {self.norms} steps: {', '.join(shown)}")
        often = [f"{label} {100 * share:.3g} %" for label, share in list(self.blocks.items())[:SHOWN] if share]
        if often and len(self.blocks) > 1:
            lines.append(f"limited most often: {', '.join(often)}")
        return "\n".join(lines)


@dataclass
class Tally:
    """Counts limited steps and blocks, and keeps the last norms, all on the gradients' device; adding reads nothing."""

    steps: int = 0
    dropped: int = 0
    norms: deque[Tensor] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _limited: Tensor | None = None  # 0-d, the steps in which any block was limited
    # By the key of the blocks, since a model or a policy may change: the blocks' names and their counts, [blocks].
    _by_blocks: dict[object, tuple[Callable[[], tuple[str, ...]], Tensor]] = field(default_factory=dict)

    def add(
        self, total: Tensor, limited: Tensor, key: object, labels: Callable[[], tuple[str, ...]], dropped: bool
    ) -> None:
        """Adds a step. total: the norm of all gradients, 0-d. limited: [blocks]. key: is equal for equal blocks."""
        self.steps += 1
        self.dropped += dropped
        self.norms.append(total)
        if not limited.numel():
            return
        steps, counts = limited.any().long(), limited.long()
        if self._limited is not None:
            steps = steps + self._limited.to(steps.device)
        if key in self._by_blocks:
            counts = counts + self._by_blocks[key][1].to(counts.device)
        self._limited, self._by_blocks[key] = steps, (labels, counts)

    def summary(self) -> ClipSummary:
        """The counts as plain numbers. Waits for the device."""
        devices = dict.fromkeys(norm.device for norm in self.norms)
        parts = [torch.stack([norm for norm in self.norms if norm.device == device]) for device in devices]
        norms = torch.cat([torch.zeros(0), *(part.cpu() for part in parts)]).double()
        norms = norms[norms.isfinite()]
        steps = max(self.steps, 1)
        return ClipSummary(
            steps=self.steps,
            limited=0.0 if self._limited is None else self._limited.item() / steps,
            dropped=self.dropped,
            norms=len(norms),
            quantiles={p: norms.quantile(p).item() for p in QUANTILES} if len(norms) else {},
            blocks={label: count / steps for label, count in self._counts().most_common()},
        )

    def _counts(self) -> Counter[str]:
        counts = Counter[str]()
        for labels, by_block in self._by_blocks.values():
            counts.update(dict(zip(labels(), by_block.tolist(), strict=True)))
        return counts
