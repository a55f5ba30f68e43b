"""The optimizer RMSprop of torch."""

from typing import Any

import torch

from trainer.config.optimizer import rmsprop as schema


def build(config: schema.RMSprop, groups: list[dict[str, Any]]) -> torch.optim.RMSprop:
    return torch.optim.RMSprop(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        alpha=config.alpha,
        eps=config.eps,
        momentum=config.momentum,
    )
