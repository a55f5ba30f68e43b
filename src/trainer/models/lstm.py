"""The long short-term memory (Hochreiter, Schmidhuber 1997)."""

from torch import nn

from trainer.config.model import lstm as schema
from trainer.config.model.recurrent import Recurrent
from trainer.models.recurrent import RecurrentNet, sizes


def build(config: schema.LSTM, inputs: int, outputs: int, kind: str) -> "LSTM":
    return LSTM(config, inputs, outputs, kind)


class LSTM(RecurrentNet):
    @staticmethod
    def core(config: Recurrent, size: int) -> nn.RNNBase:
        return nn.LSTM(**sizes(config, size))
