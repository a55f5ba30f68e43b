"""Schedules. Each option of conf/schedule/ has a file of the same name here, with `build(config, span)`.

That `build` returns a function from a step after the warm-up (0 to span - 1) to the learning-rate factor, which is the
learning rate as a share of `optimizer.lr`.
"""

from collections.abc import Callable

from trainer.config.options import builder
from trainer.config.schedule import Schedule


def build(config: Schedule, steps: int) -> Callable[[int], float]:
    """The configured schedule: a function from a step (1 to steps) to its learning-rate factor.

    During the warm-up, which all schedules share, the rate rises linearly. The rate depends on the step alone, so the
    schedule has no state to save, and a dropped step changes no later rate.
    """
    after_warmup: Callable[[int], float] = builder(__name__, "schedule", config.name)(config, steps - config.warmup)

    def lr_factor(step: int) -> float:
        if step <= config.warmup:
            return step / (config.warmup + 1)
        return after_warmup(step - config.warmup - 1)

    return lr_factor
