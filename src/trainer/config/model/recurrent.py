"""The base schema of the recurrent models."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.model.base import Model


@dataclass(kw_only=True)
class Recurrent(Model):
    """Base of the recurrent models, which read characters, or a vector one element after the other."""

    embedding: int = field("size of a character's embedding; not used for vectors", ge=1, le=10**6)
    hidden: int = field("size of the hidden state", ge=1, le=10**6)
    layers: int = field("number of recurrent layers", ge=1, le=1000)
    dropout: float = field("share of activations dropped between layers and before the output", ge=0, lt=1)

    takes: ClassVar[tuple[str, ...]] = ("characters", "vectors")
