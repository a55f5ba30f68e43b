"""What the recurrent models share."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.model.base import Model


@dataclass(kw_only=True)
class Recurrent(Model):
    """Base of the recurrent models, which read characters, or a vector one element after the other."""

    embedding: int = key("size of a character's embedding; vectors have none", least=1, most=10**6)
    hidden: int = key("size of the hidden state", least=1, most=10**6)
    layers: int = key("recurrent layers on top of each other", least=1, most=1000)
    dropout: float = key("share of activations dropped between layers and before the output", least=0, below=1)

    takes: ClassVar[tuple[str, ...]] = ("characters", "vectors")
