"""The base schema of the optimizers for which torch has a fused implementation."""

from dataclasses import dataclass

from runner.config import field
from trainer.config.optimizer.base import Optimizer


@dataclass(kw_only=True)
class Fused(Optimizer):
    """Base of the optimizers for which torch has a fused implementation."""

    fused: bool = field("use torch's fused step where it is safe, and log a warning where it is not")
