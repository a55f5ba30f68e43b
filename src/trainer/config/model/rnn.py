"""The plain recurrent network."""

from dataclasses import dataclass

from runner.config import field
from trainer.config.model.recurrent import Recurrent


@dataclass(kw_only=True)
class RNN(Recurrent):
    name: str = "rnn"
    nonlinearity: str = field("the activation", choices=("tanh", "relu"))
    init: str = field(
        "recurrent weights at the start: torch's own, the identity (Le, Jaitly, Hinton 2015), or a random rotation",
        choices=("default", "identity", "orthogonal"),
    )
    gain: float = field("multiplies the recurrent weights at the start", gt=0)
