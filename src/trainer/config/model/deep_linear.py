"""Square linear layers whose gain decides whether gradients explode or vanish."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.model.base import Model


@dataclass(kw_only=True)
class DeepLinear(Model):
    name: str = "deep_linear"
    layers: int = field("square layers, one after the other", ge=1)
    gain: float = field("what a layer multiplies lengths by at the start", gt=0)
    bias: bool = field("add a bias to each layer; its gradient is the one with regard to the layer's output")

    takes: ClassVar[tuple[str, ...]] = ("directions",)
