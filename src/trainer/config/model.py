"""Models: their sizes, and the kinds of data that each takes."""

from dataclasses import dataclass
from typing import ClassVar

from gradclip.fields import Option, key


@dataclass(kw_only=True)
class Model(Option):
    """Base of the model options; `takes` names the kinds of data that a model can read."""

    takes: ClassVar[tuple[str, ...]] = ()


@dataclass(kw_only=True)
class Recurrent(Model):
    """What the recurrent models share: they read characters, or a vector one number after the other."""

    embedding: int = key("size of a character's embedding; vectors have none", least=1)
    hidden: int = key("size of the hidden state", least=1)
    layers: int = key("recurrent layers on top of each other", least=1)
    dropout: float = key("share of activations dropped between layers and before the output", least=0, below=1)

    takes: ClassVar[tuple[str, ...]] = ("characters", "vectors")


@dataclass(kw_only=True)
class RNN(Recurrent):
    name: str = "rnn"
    nonlinearity: str = key("the activation", choices=("tanh", "relu"))
    init: str = key(
        "recurrent weights at the start: torch's own, or the identity (Le, Jaitly, Hinton 2015)",
        choices=("default", "identity"),
    )


@dataclass(kw_only=True)
class LSTM(Recurrent):
    name: str = "lstm"


@dataclass(kw_only=True)
class MLP(Model):
    name: str = "mlp"
    hidden: list[int] = key("sizes of the hidden layers", least=1)
    activation: str = key("the activation between layers", choices=("relu", "tanh", "gelu"))

    takes: ClassVar[tuple[str, ...]] = ("vectors", "points")


@dataclass(kw_only=True)
class LinearNet(Model):
    name: str = "linear_net"

    takes: ClassVar[tuple[str, ...]] = ("points",)
