"""The optimizer AdamW of torch."""

from typing import Any

import torch

from trainer.config.optimizer import adamw as schema


def build(config: schema.AdamW, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=config.fused,
    )
