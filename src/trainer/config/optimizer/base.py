"""The base schema of the optimizers."""

from dataclasses import dataclass

from gradclip.fields import Option
from runner.config import field


@dataclass(kw_only=True)
class Optimizer(Option):
    """Base of the optimizers."""

    lr: float = field("learning rate", gt=0)
    weight_decay: float = field("weight decay", ge=0)
    no_decay: list[str] = field("glob patterns of parameters that are not decayed; each must match one")
