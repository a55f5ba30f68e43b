"""One vector, and a loss that reads the outputs along one direction."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.data.base import LARGE, Data


@dataclass(kw_only=True)
class Direction(Data):
    name: str = "direction"
    batch_size: int = key("copies of the one vector; every step sees all of them", least=1, most=10**6)
    width: int = key("elements of the vector", least=1, most=10**5)
    target: float = key("what the output is to be along the direction that is read", least=-LARGE, most=LARGE)

    kind: ClassVar[str] = "directions"
