"""Points on a straight line."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.data.base import LARGE, Data


@dataclass(kw_only=True)
class Line(Data):
    name: str = "line"
    batch_size: int = field("points on the line; every step sees all of them", ge=1, le=10**6)
    slope: float = field("the line's slope", ge=-LARGE, le=LARGE)
    intercept: float = field("the line's value at 0", ge=-LARGE, le=LARGE)
    low: float = field("the smallest input", ge=-LARGE, le=LARGE)
    high: float = field("the largest input", ge=-LARGE, le=LARGE)
    noise: float = field("standard deviation of the noise on the targets", ge=0, le=LARGE)

    kind: ClassVar[str] = "points"
