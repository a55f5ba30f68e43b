"""A straight line from the full rate at the first step to the share `final` at the last."""

from collections.abc import Callable

from trainer.config.schedule import linear as schema


def build(config: schema.Linear, span: int) -> Callable[[int], float]:
    last = max(span - 1, 1)
    return lambda step: config.final + (1 - config.final) * (1 - step / last)
