"""The schemas of conf/model/, one file per option, which trainer/models/ builds by a file of that name."""

from trainer.config.model.base import Model
from trainer.config.options import import_all

import_all(__name__, __path__)

__all__ = ["Model"]
