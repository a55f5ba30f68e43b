"""The schemas of conf/model/, one file per option; trainer/models/ has its builder."""

from trainer.config.model.base import Model
from trainer.config.options import import_all

import_all(__name__, __path__)

__all__ = ["Model"]
