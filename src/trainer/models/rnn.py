"""The plain recurrent network, whose gradient is a product of one factor per time step."""

from typing import Any

import torch
from torch import nn

from trainer.config.model import rnn as schema
from trainer.models.recurrent import RecurrentNet, layer_arguments

INITS = {"identity": nn.init.eye_, "orthogonal": nn.init.orthogonal_}


def build(config: schema.RNN, inputs: int, outputs: int, kind: str) -> "RNN":
    return RNN(config, inputs, outputs, kind)


class RNN(RecurrentNet):
    @staticmethod
    def build_layers(config: Any, size: int) -> nn.RNNBase:
        layers = nn.RNN(nonlinearity=config.nonlinearity, **layer_arguments(config, size))
        for name, parameter in layers.named_parameters():
            if name.startswith("weight_hh"):
                if config.init != "default":
                    INITS[config.init](parameter)
                if config.gain != 1.0:
                    with torch.no_grad():
                        parameter.mul_(config.gain)
            elif name.startswith("bias") and config.init != "default":
                nn.init.zeros_(parameter)
        return layers
