"""RMSprop (Hinton's lecture 6 of 2012)."""

from dataclasses import dataclass

from runner.config import field
from trainer.config.optimizer.base import Optimizer


@dataclass(kw_only=True)
class RMSprop(Optimizer):
    name: str = "rmsprop"
    alpha: float = field("decay of the mean of the squared gradients", ge=0, lt=1)
    eps: float = field("added to the denominator", gt=0)
    momentum: float = field("momentum", ge=0, lt=1)
