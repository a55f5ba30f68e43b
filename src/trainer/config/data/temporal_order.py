"""Sequences of symbols, whose class is the order of two of them."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.data.base import Data


@dataclass(kw_only=True)
class TemporalOrder(Data):
    name: str = "temporal_order"
    length: int = field("symbols of a sequence", ge=10, le=10**6)
    validation: int = field("sequences that are held out", ge=1, le=10**6)

    kind: ClassVar[str] = "characters"
