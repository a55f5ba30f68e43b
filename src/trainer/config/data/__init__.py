"""The schemas of conf/data/, one file per option; trainer/data/ has its builder."""

from trainer.config.data.base import Data
from trainer.config.options import import_all

import_all(__name__, __path__)

__all__ = ["Data"]
