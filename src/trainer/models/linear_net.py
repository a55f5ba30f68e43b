"""The smallest network, for teaching: one linear layer that learns, and one that forward never uses."""

from torch import Tensor, nn

from trainer.config.model import linear_net as schema
from trainer.models import HiddenState


def build(config: schema.LinearNet, inputs: int, outputs: int, kind: str) -> "LinearNet":
    return LinearNet()


class LinearNet(nn.Module):
    """A linear layer from [batch, 1] to [batch, 1], and an unused one, whose gradients stay None when clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.linear2 = nn.Linear(1, 1)

    def forward(self, inputs: Tensor, state: HiddenState = None) -> tuple[Tensor, HiddenState]:
        return self.linear(inputs), None
