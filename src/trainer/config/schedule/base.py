"""The base schema of the schedules."""

from dataclasses import dataclass
from typing import ClassVar

from gradclip.fields import Option
from runner.config import field


@dataclass(kw_only=True)
class Schedule(Option):
    """Base of the schedules of the learning rate."""

    warmup: int = field("steps over which the rate rises linearly to lr", ge=0)

    spans_all_steps: ClassVar[bool] = False  # whether a step's rate depends on the run's number of steps
