"""The schemas: type, range and one line of help for every key. The values are in conf/. Does not import torch."""

from trainer.config.device import Device
from trainer.config.train import Diagnosis, Divergence, PostMortem, Train

__all__ = ["Device", "Diagnosis", "Divergence", "PostMortem", "Train"]
