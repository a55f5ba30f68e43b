"""The long short-term memory."""

from dataclasses import dataclass

from trainer.config.model.recurrent import Recurrent


@dataclass(kw_only=True)
class LSTM(Recurrent):
    name: str = "lstm"
