"""RMSprop (Hinton's lecture 6 of 2012)."""

from dataclasses import dataclass

from runner.config import key
from trainer.config.optimizer.base import Optimizer


@dataclass(kw_only=True)
class RMSprop(Optimizer):
    name: str = "rmsprop"
    alpha: float = key("decay of the mean of the squared gradients", least=0, below=1)
    eps: float = key("added to the denominator", above=0)
    momentum: float = key("momentum", least=0, below=1)
