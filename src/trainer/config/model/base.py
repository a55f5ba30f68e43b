"""The base schema of the models."""

from dataclasses import dataclass
from typing import ClassVar

from gradclip.fields import Option


@dataclass(kw_only=True)
class Model(Option):
    """Base of the models; `takes` names the kinds of data that a model can read."""

    takes: ClassVar[tuple[str, ...]] = ()
