"""Models: their sizes, and the kinds of data that each takes."""

from dataclasses import dataclass
from typing import ClassVar

from gradclip.fields import Option
from runner.config import key


@dataclass(kw_only=True)
class Model(Option):
    """Base of the model options; `takes` names the kinds of data that a model can read."""

    takes: ClassVar[tuple[str, ...]] = ()


@dataclass(kw_only=True)
class Recurrent(Model):
    """What the recurrent models share: they read characters, or a vector one number after the other."""

    embedding: int = key("size of a character's embedding; vectors have none", least=1, most=10**6)
    hidden: int = key("size of the hidden state", least=1, most=10**6)
    layers: int = key("recurrent layers on top of each other", least=1, most=1000)
    dropout: float = key("share of activations dropped between layers and before the output", least=0, below=1)

    takes: ClassVar[tuple[str, ...]] = ("characters", "vectors")


@dataclass(kw_only=True)
class RNN(Recurrent):
    name: str = "rnn"
    nonlinearity: str = key("the activation", choices=("tanh", "relu"))
    init: str = key(
        "recurrent weights at the start: torch's own, the identity (Le, Jaitly, Hinton 2015), or a random rotation",
        choices=("default", "identity", "orthogonal"),
    )
    gain: float = key("multiplies the recurrent weights at the start", above=0)


@dataclass(kw_only=True)
class LSTM(Recurrent):
    name: str = "lstm"


@dataclass(kw_only=True)
class MLP(Model):
    name: str = "mlp"
    hidden: list[int] = key("sizes of the hidden layers", least=1, most=10**7)
    activation: str = key("the activation between layers", choices=("relu", "tanh", "gelu"))

    takes: ClassVar[tuple[str, ...]] = ("vectors", "points")


@dataclass(kw_only=True)
class LinearNet(Model):
    name: str = "linear_net"

    takes: ClassVar[tuple[str, ...]] = ("points",)


@dataclass(kw_only=True)
class DeepLinear(Model):
    name: str = "deep_linear"
    layers: int = key("square layers, one after the other", least=1)
    gain: float = key("what a layer multiplies lengths by at the start", above=0)
    bias: bool = key("add a bias to each layer; its gradient is the signal that comes down to it")

    takes: ClassVar[tuple[str, ...]] = ("directions",)
