"""Stochastic gradient descent, with or without momentum."""

from dataclasses import dataclass

from runner.config import field
from runner.errors import UserError
from trainer.config.optimizer.fused import Fused


@dataclass(kw_only=True)
class SGD(Fused):
    name: str = "sgd"
    momentum: float = field("momentum", ge=0, lt=1)
    nesterov: bool = field("Nesterov's momentum; needs a momentum above 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise UserError("optimizer.nesterov=true needs optimizer.momentum above 0")
