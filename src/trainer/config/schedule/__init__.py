"""The schemas of conf/schedule/, one file per option; trainer/schedules/ has its builder."""

from trainer.config.options import import_all
from trainer.config.schedule.base import Schedule

import_all(__name__, __path__)

__all__ = ["Schedule"]
