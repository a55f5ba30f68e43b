"""The schemas of conf/model/, one file per option; the file of the same name in trainer/models/ builds it."""

from trainer.config.model.base import Model
from trainer.config.options import import_all

import_all(__name__, __path__)

__all__ = ["Model"]
