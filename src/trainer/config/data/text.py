"""Text, read character by character."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import key
from trainer.config.data.base import Data


@dataclass(kw_only=True)
class Text(Data):
    name: str = "text"
    path: str | None = key("a UTF-8 text file; null reads the help topics that come with Python", path=True)
    window: int = key("characters between two truncations of back-propagation through time", least=1)
    validation: float = key("share of the text, at its end, that is held out", above=0, below=1)
    sample: int = key(
        "characters of generated text at the end of a run; 0 for none", least=0, most=10**6, mutable_on_resume=True
    )

    kind: ClassVar[str] = "characters"
