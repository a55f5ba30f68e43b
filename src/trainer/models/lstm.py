"""The long short-term memory (Hochreiter, Schmidhuber 1997)."""

from torch import nn

from trainer import config as schema
from trainer.models.recurrent import RecurrentNet, sizes


def build(config: schema.LSTM, inputs: int, outputs: int, kind: str) -> "LSTM":
    return LSTM(config, inputs, outputs, kind)


class LSTM(RecurrentNet):
    @staticmethod
    def core(config: schema.Recurrent, size: int) -> nn.RNNBase:
        return nn.LSTM(**sizes(config, size))
