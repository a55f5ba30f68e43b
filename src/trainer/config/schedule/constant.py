"""The same rate at every step after the warm-up."""

from dataclasses import dataclass

from trainer.config.schedule.base import Schedule


@dataclass(kw_only=True)
class Constant(Schedule):
    name: str = "constant"
