"""Stochastic gradient descent, with or without momentum."""

from dataclasses import dataclass

from runner.config import key
from runner.errors import UserError
from trainer.config.optimizer.fused import Fused


@dataclass(kw_only=True)
class SGD(Fused):
    name: str = "sgd"
    momentum: float = key("momentum", least=0, below=1)
    nesterov: bool = key("Nesterov's momentum; needs a momentum above 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise UserError("optimizer.nesterov=true needs optimizer.momentum above 0")
