"""Fully connected layers."""

from itertools import pairwise

from torch import Tensor, nn

from trainer.config.model import mlp as schema
from trainer.models import HiddenState

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def build(config: schema.MLP, inputs: int, outputs: int, kind: str) -> "MLP":
    return MLP(config, inputs, outputs)


class MLP(nn.Module):
    """Linear layers with an activation function between them, from [batch, inputs] to [batch, outputs]."""

    def __init__(self, config: schema.MLP, inputs: int, outputs: int):
        super().__init__()
        layers: list[nn.Module] = []
        for width, following in pairwise([inputs, *config.hidden]):
            layers += [nn.Linear(width, following), ACTIVATIONS[config.activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(config.hidden[-1] if config.hidden else inputs, outputs))

    def forward(self, inputs: Tensor, state: HiddenState = None) -> tuple[Tensor, HiddenState]:
        return self.layers(inputs), None
