"""The schemas of conf/data/, one file per option; the file of the same name in trainer/data/ builds it."""

from trainer.config.data.base import Data
from trainer.config.options import import_all

import_all(__name__, __path__)

__all__ = ["Data"]
