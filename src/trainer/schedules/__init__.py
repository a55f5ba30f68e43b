"""Schedules. Each option of conf/schedule/ has a file of the same name here, with `build(config, span)`.

That `build` returns a function from a step after the warm-up (0 to span - 1) to a share of the learning rate.
"""

from collections.abc import Callable
from importlib import import_module

from trainer.config.schedule import Schedule


def build(config: Schedule, steps: int) -> Callable[[int], float]:
    """The schedule that a configuration describes: from a step (1 to steps) to its rate as a share of `optimizer.lr`.

    During the warm-up, which all schedules share, the rate rises in equal parts. The rate is a function of the step
    alone: there is no state to save, and a step that is left out changes no later rate.
    """
    after_warmup: Callable[[int], float] = import_module(f"{__name__}.{config.name}").build(
        config, steps - config.warmup
    )

    def share(step: int) -> float:
        if step <= config.warmup:
            return step / (config.warmup + 1)
        return after_warmup(step - config.warmup - 1)

    return share
