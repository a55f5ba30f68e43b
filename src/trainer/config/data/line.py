"""Points on a straight line."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.data.base import LARGE, Data


@dataclass(kw_only=True)
class Line(Data):
    name: str = "line"
    batch_size: int = key("points on the line; every step sees all of them", least=1, most=10**6)
    slope: float = key("the line's slope", least=-LARGE, most=LARGE)
    intercept: float = key("the line's value at 0", least=-LARGE, most=LARGE)
    low: float = key("the smallest input", least=-LARGE, most=LARGE)
    high: float = key("the largest input", least=-LARGE, most=LARGE)
    noise: float = key("standard deviation of the noise on the targets", least=0, most=LARGE)

    kind: ClassVar[str] = "points"
