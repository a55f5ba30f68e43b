"""The plain recurrent network."""

from dataclasses import dataclass

from runner.config import field
from trainer.config.model.recurrent import Recurrent


@dataclass(kw_only=True)
class RNN(Recurrent):
    name: str = "rnn"
    nonlinearity: str = field("the activation function", choices=("tanh", "relu"))
    init: str = field(
        "initial recurrent weights: torch's default, the identity (Le, Jaitly, Hinton 2015), or random orthogonal",
        choices=("default", "identity", "orthogonal"),
    )
    gain: float = field("factor of the initial recurrent weights", gt=0)
