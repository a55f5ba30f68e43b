"""The base schema of the schedules that decrease the rate until the last step."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.schedule.base import Schedule


@dataclass(kw_only=True)
class Decay(Schedule):
    """Base of the schedules that end at a share of lr."""

    final: float = field("the rate at the last step, as a share of lr", ge=0, le=1)

    spans_all_steps: ClassVar[bool] = True
