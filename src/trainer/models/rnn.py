"""The plain recurrent network, whose gradient is a product of one factor for every time step."""

from typing import Any

from torch import nn

from trainer import config as schema
from trainer.models.recurrent import RecurrentNet, sizes


def build(config: schema.RNN, inputs: int, outputs: int, kind: str) -> "RNN":
    return RNN(config, inputs, outputs, kind)


class RNN(RecurrentNet):
    @staticmethod
    def core(config: Any, size: int) -> nn.RNNBase:
        core = nn.RNN(nonlinearity=config.nonlinearity, **sizes(config, size))
        if config.init == "identity":
            for name, parameter in core.named_parameters():
                if name.startswith("weight_hh"):
                    nn.init.eye_(parameter)
                elif name.startswith("bias"):
                    nn.init.zeros_(parameter)
        return core
