"""Square linear layers in sequence, each an orthogonal matrix times a gain: the gradient is a product of gains."""

from torch import Tensor, nn

from trainer.config.model import deep_linear as schema
from trainer.models import HiddenState


def build(config: schema.DeepLinear, inputs: int, outputs: int, kind: str) -> "DeepLinear":
    return DeepLinear(config, inputs)


class DeepLinear(nn.Module):
    """A sequence of linear layers from [batch, width] to [batch, width].

    Orthogonal matrices preserve lengths (Saxe, McClelland, Ganguli 2014): initially each layer multiplies the
    length of its input, and that of the gradient with respect to its output, by exactly its gain.
    """

    def __init__(self, config: schema.DeepLinear, width: int):
        super().__init__()
        layers = [nn.Linear(width, width, bias=config.bias) for _ in range(config.layers)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight, gain=config.gain)
            if config.bias:
                nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, state: HiddenState = None) -> tuple[Tensor, HiddenState]:
        return self.layers(inputs), None
