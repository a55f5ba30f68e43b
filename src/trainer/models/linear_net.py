"""A teaching net: one weight that learns, and a layer that forward never uses."""

from torch import Tensor, nn

from trainer import config as schema
from trainer.models import State


def build(config: schema.LinearNet, inputs: int, outputs: int, kind: str) -> "LinearNet":
    return LinearNet()


class LinearNet(nn.Module):
    """[batch, 1] to [batch, 1]. The gradients of `linear2` stay None: clipping has to leave them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.linear2 = nn.Linear(1, 1)

    def forward(self, inputs: Tensor, state: State = None) -> tuple[Tensor, State]:
        return self.linear(inputs), None
