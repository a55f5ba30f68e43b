"""One vector, and a loss on the component of the outputs along one direction."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.data.base import LARGE, Data


@dataclass(kw_only=True)
class Direction(Data):
    name: str = "direction"
    batch_size: int = field("copies of the one vector; every step sees all of them", ge=1, le=10**6)
    width: int = field("elements of the vector", ge=1, le=10**5)
    target: float = field("the output's target component along the direction", ge=-LARGE, le=LARGE)

    kind: ClassVar[str] = "directions"
