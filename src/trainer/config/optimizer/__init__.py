"""The schemas of conf/optimizer/, one file per option; trainer/optimizers/ has its builder."""

from trainer.config.optimizer.base import Optimizer
from trainer.config.options import import_all

import_all(__name__, __path__)

__all__ = ["Optimizer"]
