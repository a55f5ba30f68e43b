"""Half a cosine from the full rate at the first step to the share `final` at the last (Loshchilov, Hutter 2017)."""

import math
from collections.abc import Callable

from trainer.config.schedule import cosine as schema


def build(config: schema.Cosine, span: int) -> Callable[[int], float]:
    last = max(span - 1, 1)
    return lambda step: config.final + (1 - config.final) * ((1 + math.cos(math.pi * (step / last))) / 2)
