"""A rate that decreases along a straight line."""

from dataclasses import dataclass

from trainer.config.schedule.decay import Decay


@dataclass(kw_only=True)
class Linear(Decay):
    name: str = "linear"
