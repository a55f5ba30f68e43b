"""A rate that decreases along half a cosine (Loshchilov, Hutter 2017)."""

from dataclasses import dataclass

from trainer.config.schedule.decay import Decay


@dataclass(kw_only=True)
class Cosine(Decay):
    name: str = "cosine"
