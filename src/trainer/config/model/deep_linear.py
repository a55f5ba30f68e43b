"""Square linear layers whose gain decides whether gradients explode or vanish."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.model.base import Model


@dataclass(kw_only=True)
class DeepLinear(Model):
    name: str = "deep_linear"
    layers: int = key("square layers, one after the other", least=1)
    gain: float = key("what a layer multiplies lengths by at the start", above=0)
    bias: bool = key("add a bias to each layer; its gradient is the one with regard to the layer's output")

    takes: ClassVar[tuple[str, ...]] = ("directions",)
