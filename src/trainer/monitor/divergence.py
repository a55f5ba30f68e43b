"""The rule by which a run counts as diverged: the loss is non-finite, or the smoothed loss is far above the first."""

import math

from runner.runs.run import Diverged
from trainer.config import Divergence


class DivergenceDetector:
    """Compares the smoothed loss of the logged steps with the first one."""

    def __init__(self, config: Divergence):
        self._config = config
        self._first = self._smoothed = math.nan

    def update(self, step: int, loss: float) -> None:
        """Adds the loss of a logged step. Raises Diverged if it is non-finite, or if the smoothed loss is too high."""
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at step {step}")
        if math.isnan(self._first):
            self._first = self._smoothed = loss
        past = self._config.smoothing
        self._smoothed = past * self._smoothed + (1 - past) * loss
        factor = self._config.factor
        # The margin is a share of the first loss's magnitude, so that it is positive for a negative loss and for 0.
        if factor is not None and self._smoothed > self._first + (factor - 1) * max(abs(self._first), 1e-3):
            raise Diverged(
                f"the smoothed training loss {self._smoothed:.4g} at step {step} is more than "
                f"{factor:g} times the first one, {self._first:.4g}"
            )

    def state_dict(self) -> dict[str, float]:
        """The first and the smoothed loss, for a checkpoint."""
        return {"first": self._first, "smoothed": self._smoothed}

    def load_state_dict(self, state: dict[str, float], /) -> None:
        """Restores what `state_dict` returned."""
        self._first, self._smoothed = state["first"], state["smoothed"]
