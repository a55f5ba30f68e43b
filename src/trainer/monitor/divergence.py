"""The rule of divergence for the loss: it is not finite, or, smoothed, far above its start."""

import math

from runner.runs.run import Diverged
from trainer.config import Divergence


class DivergenceDetector:
    """Follows the losses of the logged steps: the first one, and a smoothed one."""

    def __init__(self, config: Divergence):
        self._config = config
        self._first = self._smoothed = math.nan

    def update(self, step: int, loss: float) -> None:
        """Raises Diverged if the values of a logged step say so."""
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at step {step}")
        if math.isnan(self._first):
            self._first = self._smoothed = loss
        past = self._config.smoothing
        self._smoothed = past * self._smoothed + (1 - past) * loss
        factor = self._config.factor
        # By the first loss's size, so that a negative one has a threshold above it, and 0 one above rounding.
        if factor is not None and self._smoothed > self._first + (factor - 1) * max(abs(self._first), 1e-3):
            raise Diverged(
                f"the smoothed training loss {self._smoothed:.4g} at step {step} is more than "
                f"{factor:g} times the first one, {self._first:.4g}"
            )

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"first": self._first, "smoothed": self._smoothed}

    def load_state_dict(self, state: dict[str, float], /) -> None:
        """From a checkpoint."""
        self._first, self._smoothed = state["first"], state["smoothed"]
