"""What the optimizers share that torch also has as one fused kernel."""

from dataclasses import dataclass

from runner.config import field
from trainer.config.optimizer.base import Optimizer


@dataclass(kw_only=True)
class Fused(Optimizer):
    """Base of the optimizers that torch also has as one fused kernel."""

    fused: bool = field("use torch's fused step where it is safe, and say so where it is not")
