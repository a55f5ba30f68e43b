"""The statistics of a run for its end-of-run summary."""

import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import torch

MAX_NORMS = 1 << 14  # norms kept for the quantiles


@dataclass
class History:
    """The statistics of the logged steps of a run so far.

    first, last: the training losses of the first and the last logged step. best, best_step: the lowest validation
    loss, which is the run's objective, and its step. before: the norms before clipping, of every `stride`-th logged
    step; in a long run the stride grows, so that at most MAX_NORMS are kept.
    """

    first: float = math.nan
    last: float = math.nan
    best: float | None = None
    best_step: int = 0
    clipped: int = 0
    dropped: int = 0
    logged: int = 0
    stride: int = 1
    before: "array[float]" = field(default_factory=lambda: array("d"))

    def add_step(self, loss: float, before: float, clipped: bool) -> None:
        """Adds a logged step: its loss, its norm before clipping, and whether clipping limited anything."""
        self.first = loss if math.isnan(self.first) else self.first
        self.last = loss
        self.clipped += clipped
        if self.logged % self.stride == 0:
            self.before.append(before)
        if len(self.before) == MAX_NORMS:
            self.before, self.stride = self.before[::2], 2 * self.stride
        self.logged += 1

    def add_evaluation(self, step: int, loss: float) -> bool:
        """Adds the validation loss of an evaluation, and returns whether it is the lowest so far."""
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best):
            return False
        self.best, self.best_step = loss, step
        return True

    def state_dict(self) -> dict[str, Any]:
        """The history as tensors and plain values, for a checkpoint."""
        return vars(self) | {"before": torch.tensor(self.before, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restores what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, array("d", value.tolist()) if name == "before" else value)
