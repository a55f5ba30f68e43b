"""The schemas: type, range and one line of help for every key. The values stand in conf/. No torch here."""

from gradclip.policies import Policy
from trainer.config.data import Data, Digits, Direction, Line, TemporalOrder, Text
from trainer.config.device import Device
from trainer.config.model import LSTM, MLP, RNN, DeepLinear, LinearNet, Model, Recurrent
from trainer.config.optim import SGD, Adam, AdamW, Constant, Cosine, Decay, Fused, Linear, Optimizer, RMSprop, Schedule
from trainer.config.train import Diagnosis, Divergence, Train

__all__ = [
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
    "Model",
    "Optimizer",
    "Policy",
    "RMSprop",
    "Recurrent",
    "Schedule",
    "TemporalOrder",
    "Text",
    "Train",
]  # fmt: skip
