"""The smallest network, for teaching: y = weight * x + bias."""

from dataclasses import dataclass
from typing import ClassVar

from trainer.config.model.base import Model


@dataclass(kw_only=True)
class LinearNet(Model):
    name: str = "linear_net"

    takes: ClassVar[tuple[str, ...]] = ("points",)
