"""What all optimizers share."""

from dataclasses import dataclass

from gradclip.fields import Option
from runner.config import key


@dataclass(kw_only=True)
class Optimizer(Option):
    """Base of the optimizers."""

    lr: float = key("learning rate", above=0)
    weight_decay: float = key("weight decay", least=0)
    no_decay: list[str] = key("glob patterns of the parameters that are not decayed")
