"""Images of handwritten digits."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.data.base import Data


@dataclass(kw_only=True)
class Digits(Data):
    name: str = "digits"
    validation: float = field("share of the images that is held out", gt=0, lt=1)
    workers: int = field(
        "processes that load the data; 0 loads in the training process", ge=0, le=256, mutable_on_resume=True
    )

    kind: ClassVar[str] = "vectors"
