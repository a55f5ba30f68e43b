"""Fully connected layers."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.model.base import Model


@dataclass(kw_only=True)
class MLP(Model):
    name: str = "mlp"
    hidden: list[int] = field("sizes of the hidden layers", ge=1, le=10**7)
    activation: str = field("the activation function between layers", choices=("relu", "tanh", "gelu"))

    takes: ClassVar[tuple[str, ...]] = ("vectors", "points")
