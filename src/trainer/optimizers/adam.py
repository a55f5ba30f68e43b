"""The optimizer Adam of torch."""

from typing import Any

import torch

from trainer.config.optimizer import adam as schema


def build(config: schema.Adam, groups: list[dict[str, Any]]) -> torch.optim.Adam:
    return torch.optim.Adam(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=config.fused,
    )
