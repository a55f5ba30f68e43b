"""What a configuration needs of the machine, the data and the model, looked at before a run has a folder."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gradclip.errors import InvalidField, UnmatchedPatternError
from trainer.config import Digits, Mistake, Text, Train

if TYPE_CHECKING:
    from trainer.data import Dataset


def check(config: Train) -> None:
    """Raises Mistake. Loads torch only where the answer takes it: another device, a text file, patterns."""
    data = config.data
    if isinstance(data, Text) and data.path is not None and not os.access(data.path, os.R_OK):
        reason = "cannot be read" if Path(data.path).exists() else "no such file"
        raise Mistake(f"data.path={data.path}: {reason}")
    if isinstance(data, Digits) and importlib.util.find_spec("sklearn") is None:
        raise Mistake('data=digits needs scikit-learn: pip install -c constraints.txt -e ".[digits]"')
    if config.device.name in ("cuda", "mps"):
        from trainer import device

        device.find(config.device)
    if config.clip.include or config.clip.exclude:
        _check_patterns(config)
    elif isinstance(data, Text) and data.path is not None:
        _build_data(config)


def _check_patterns(config: Train) -> None:
    """The patterns against the model's names; the model is built without memory for its weights."""
    import torch

    from gradclip.gradients import select
    from trainer import models

    data = _build_data(config)
    with torch.device("meta"):
        model = models.build(config.model, data.inputs, data.outputs, config.data.kind)
    try:
        select([name for name, _ in model.named_parameters()], config.clip.include, config.clip.exclude)
    except (UnmatchedPatternError, InvalidField) as error:
        raise Mistake(f"clip.{error}") from None


def _build_data(config: Train) -> "Dataset":
    from trainer import data

    return data.build(config.data, config.seed)
