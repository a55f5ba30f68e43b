"""The base of the recurrent models: an embedding, recurrent layers, dropout, and a linear output layer."""

from typing import cast

from torch import Tensor, nn

from trainer.config.model.recurrent import Recurrent
from trainer.models import HiddenState


class RecurrentNet(nn.Module):
    """Maps characters [batch, time] to [batch, time, outputs], or vectors [batch, features] to [batch, outputs].

    A vector is read one element after the other, and the output after the last element is returned.
    """

    def __init__(self, config: Recurrent, inputs: int, outputs: int, kind: str):
        super().__init__()
        self.embedding = nn.Embedding(inputs, config.embedding) if kind == "characters" else None
        self.recurrent = self.build_layers(config, config.embedding if self.embedding else 1)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden, outputs)

    @staticmethod
    def build_layers(config: Recurrent, size: int) -> nn.RNNBase:
        """The recurrent layers, for inputs [batch, time, size]."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, state: HiddenState = None) -> tuple[Tensor, HiddenState]:
        sequence = self.embedding(inputs) if self.embedding else inputs.unsqueeze(-1)
        hidden, state = self.recurrent(sequence, state)
        if not self.embedding:
            hidden = hidden[:, -1]
        return cast(Tensor, self.output(self.dropout(hidden))), state


def layer_arguments(config: Recurrent, size: int) -> dict[str, int | float | bool]:
    """The arguments that the constructors of torch's recurrent layers share."""
    dropout = config.dropout if config.layers > 1 else 0.0  # torch warns of dropout where there is one layer only
    return {
        "input_size": size,
        "hidden_size": config.hidden,
        "num_layers": config.layers,
        "dropout": dropout,
        "batch_first": True,
    }
