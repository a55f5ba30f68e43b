"""Data sets: what they read and how it is cut into batches."""

from dataclasses import dataclass
from typing import ClassVar

from gradclip.fields import Option
from runner.config import key

LARGE = 1e30  # numbers of the data stay well within float32


@dataclass(kw_only=True)
class Data(Option):
    """Base of the data options; `kind` is what a model must be able to take."""

    batch_size: int = key("rows of a batch", least=1, most=10**6)

    kind: ClassVar[str] = ""


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
    LARGEST: ClassVar[int] = 1 << 27  # bytes of a file: held in memory, at up to 20 bytes a character while it is read


@dataclass(kw_only=True)
class Digits(Data):
    name: str = "digits"
    validation: float = key("share of the images that is held out", above=0, below=1)
    workers: int = key(
        "processes that load the data; 0 loads in the training process", least=0, most=256, mutable_on_resume=True
    )

    kind: ClassVar[str] = "vectors"


@dataclass(kw_only=True)
class Line(Data):
    name: str = "line"
    batch_size: int = key("points on the line; every step sees all of them", least=1, most=10**6)
    slope: float = key("the line's slope", least=-LARGE, most=LARGE)
    intercept: float = key("the line's value at 0", least=-LARGE, most=LARGE)
    low: float = key("the smallest input", least=-LARGE, most=LARGE)
    high: float = key("the largest input", least=-LARGE, most=LARGE)
    noise: float = key("standard deviation of the noise on the targets", least=0, most=LARGE)

    kind: ClassVar[str] = "points"


@dataclass(kw_only=True)
class Direction(Data):
    name: str = "direction"
    batch_size: int = key("copies of the one vector; every step sees all of them", least=1, most=10**6)
    width: int = key("elements of the vector", least=1, most=10**5)
    target: float = key("what the output is to be along the direction that is read", least=-LARGE, most=LARGE)

    kind: ClassVar[str] = "directions"


@dataclass(kw_only=True)
class TemporalOrder(Data):
    name: str = "temporal_order"
    length: int = key("symbols of a sequence", least=10, most=10**6)
    validation: int = key("sequences that are held out", least=1, most=10**6)

    kind: ClassVar[str] = "characters"
