"""The long short-term memory (Hochreiter, Schmidhuber 1997)."""

from torch import nn

from trainer.config.model import lstm as schema
from trainer.config.model.recurrent import Recurrent
from trainer.models.recurrent import RecurrentNet, layer_arguments


def build(config: schema.LSTM, inputs: int, outputs: int, kind: str) -> "LSTM":
    return LSTM(config, inputs, outputs, kind)


class LSTM(RecurrentNet):
    @staticmethod
    def build_layers(config: Recurrent, size: int) -> nn.RNNBase:
        return nn.LSTM(**layer_arguments(config, size))
