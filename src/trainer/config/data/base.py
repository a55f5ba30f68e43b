"""The base schema of the data sets."""

from dataclasses import dataclass
from typing import ClassVar

from gradclip.fields import Option
from runner.config import field

LARGE = 1e30  # the largest magnitude of a number in the data: its products stay within float32


@dataclass(kw_only=True)
class Data(Option):
    """Base of the data sets; `kind` is what a model must be able to take."""

    batch_size: int = field("rows of a batch", ge=1, le=10**6)

    kind: ClassVar[str] = ""
