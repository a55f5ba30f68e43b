"""Text, read character by character."""

from dataclasses import dataclass
from typing import ClassVar

from runner.config import field
from trainer.config.data.base import Data


@dataclass(kw_only=True)
class Text(Data):
    name: str = "text"
    path: str | None = field(
        "a text file, or a pattern such as books/*.txt; UTF-8, or with a byte order mark; .gz is decompressed; "
        "null: the help topics that come with Python",
        path=True,
        mutable_on_resume=True,  # the text's hash is compared instead
    )
    window: int = field("characters between two truncations of back-propagation through time", ge=1)
    validation: float = field("share of the text, at its end, that is held out", gt=0, lt=1)
    sample: int = field(
        "characters of generated text at the end of a run; 0 for none", ge=0, le=10**6, mutable_on_resume=True
    )

    kind: ClassVar[str] = "characters"
