"""Fully connected layers."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.model.base import Model


@dataclass(kw_only=True)
class MLP(Model):
    name: str = "mlp"
    hidden: list[int] = key("sizes of the hidden layers", least=1, most=10**7)
    activation: str = key("the activation between layers", choices=("relu", "tanh", "gelu"))

    takes: ClassVar[tuple[str, ...]] = ("vectors", "points")
