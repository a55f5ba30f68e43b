"""Square linear layers whose gain decides whether gradients explode or vanish."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.model.base import Model


@dataclass(kw_only=True)
class DeepLinear(Model):
    name: str = "deep_linear"
    layers: int = field("number of square layers", ge=1)
    gain: float = field("factor by which each layer initially multiplies the length of its input", gt=0)
    bias: bool = field("add a bias to each layer; its gradient is that of the layer's output")

    takes: ClassVar[tuple[str, ...]] = ("directions",)
