"""The optimizer SGD of torch: stochastic gradient descent."""

from typing import Any

import torch

from trainer.config.optimizer import sgd as schema


def build(config: schema.SGD, groups: list[dict[str, Any]]) -> torch.optim.SGD:
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=config.fused,
    )
