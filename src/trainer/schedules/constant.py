"""A constant learning rate."""

from collections.abc import Callable

from trainer.config.schedule import constant as schema


def build(config: schema.Constant, span: int) -> Callable[[int], float]:
    return lambda step: 1.0
