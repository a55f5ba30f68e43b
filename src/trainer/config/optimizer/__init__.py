"""The schemas of conf/optimizer/, one file per option, which trainer/optimizers/ builds by a file of that name."""

from trainer.config.optimizer.base import Optimizer
from trainer.config.options import import_all

import_all(__name__, __path__)

__all__ = ["Optimizer"]
