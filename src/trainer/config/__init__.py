"""The schemas: type, range and one line of help for every key. The values stand in conf/. No torch here."""

from typing import Any

from gradclip.policies import Policy
from trainer.config.data import Data, Digits, Direction, Line, TemporalOrder, Text
from trainer.config.device import Device
from trainer.config.mistake import Mistake
from trainer.config.model import LSTM, MLP, RNN, DeepLinear, LinearNet, Model, Recurrent
from trainer.config.optim import SGD, Adam, AdamW, Constant, Cosine, Decay, Fused, Linear, Optimizer, RMSprop, Schedule
from trainer.config.train import EXTENDING, Diagnosis, Divergence, Train, flat, turned

GROUPS: dict[str, type[Any]] = {
    "model": Model,
    "data": Data,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "device": Device,
    "clip": Policy,
}

__all__ = [
    "EXTENDING",
    "GROUPS",
    "LSTM",
    "MLP",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Data",
    "Decay",
    "DeepLinear",
    "Device",
    "Diagnosis",
    "Digits",
    "Direction",
    "Divergence",
    "Fused",
    "Line",
    "Linear",
    "LinearNet",
    "Mistake",
    "Model",
    "Optimizer",
    "Policy",
    "RMSprop",
    "Recurrent",
    "Schedule",
    "TemporalOrder",
    "Text",
    "Train",
    "flat",
    "turned",
]  # fmt: skip
