"""Images of handwritten digits."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.data.base import Data


@dataclass(kw_only=True)
class Digits(Data):
    name: str = "digits"
    validation: float = key("share of the images that is held out", above=0, below=1)
    workers: int = key(
        "processes that load the data; 0 loads in the training process", least=0, most=256, mutable_on_resume=True
    )

    kind: ClassVar[str] = "vectors"
