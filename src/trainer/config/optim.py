"""Optimizers, all torch's own, and schedules of their learning rate."""

from dataclasses import dataclass
from typing import ClassVar

from gradclip.fields import Option
from runner.config import key
from runner.errors import UserError


@dataclass(kw_only=True)
class Optimizer(Option):
    """What all optimizers share."""

    lr: float = key("learning rate", above=0)
    weight_decay: float = key("weight decay", least=0)
    no_decay: list[str] = key("glob patterns of the parameters that are not decayed")


@dataclass(kw_only=True)
class Fused(Optimizer):
    """Optimizers that torch also has as one fused kernel."""

    fused: bool = key("use torch's fused step where it is safe, and say so where it is not")


@dataclass(kw_only=True)
class SGD(Fused):
    name: str = "sgd"
    momentum: float = key("momentum", least=0, below=1)
    nesterov: bool = key("Nesterov's momentum; needs a momentum above 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise UserError("optimizer.nesterov=true needs optimizer.momentum above 0")


@dataclass(kw_only=True)
class AdamLike(Fused):
    """What Adam and AdamW share."""

    beta1: float = key("decay of the mean of the gradients", least=0, below=1)
    beta2: float = key("decay of the mean of their squares", least=0, below=1)
    eps: float = key("added to the denominator", above=0)


@dataclass(kw_only=True)
class Adam(AdamLike):
    name: str = "adam"


@dataclass(kw_only=True)
class AdamW(AdamLike):
    name: str = "adamw"


@dataclass(kw_only=True)
class RMSprop(Optimizer):
    name: str = "rmsprop"
    alpha: float = key("decay of the mean of the squared gradients", least=0, below=1)
    eps: float = key("added to the denominator", above=0)
    momentum: float = key("momentum", least=0, below=1)


@dataclass(kw_only=True)
class Schedule(Option):
    """What all schedules share."""

    warmup: int = key("steps over which the rate rises linearly to lr", least=0)

    spans_all_steps: ClassVar[bool] = False  # whether the rate of a step depends on how many steps there are


@dataclass(kw_only=True)
class Constant(Schedule):
    name: str = "constant"


@dataclass(kw_only=True)
class Decay(Schedule):
    """Schedules that end at a share of lr."""

    final: float = key("the rate at the last step, as a share of lr", least=0, most=1)

    spans_all_steps: ClassVar[bool] = True


@dataclass(kw_only=True)
class Cosine(Decay):
    name: str = "cosine"


@dataclass(kw_only=True)
class Linear(Decay):
    name: str = "linear"
