"""Sequences of symbols, of which the order of two is asked for at the end."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.data.base import Data


@dataclass(kw_only=True)
class TemporalOrder(Data):
    name: str = "temporal_order"
    length: int = key("symbols of a sequence", least=10, most=10**6)
    validation: int = key("sequences that are held out", least=1, most=10**6)

    kind: ClassVar[str] = "characters"
