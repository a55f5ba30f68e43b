"""What a configuration needs of the machine, the data and the model, looked at before a run has a folder."""

import importlib.util
import os
from pathlib import Path

from gradclip.errors import InvalidField, UnmatchedPatternError
from trainer.config import Digits, Mistake, Text, Train


def check(config: Train) -> None:
    """Raises Mistake. What can be looked up without torch comes first; then the data is built as the run will."""
    data = config.data
    if isinstance(data, Text) and data.path is not None:
        if not Path(data.path).is_file():
            raise Mistake(f"data.path={data.path}: {'not a file' if Path(data.path).exists() else 'no such file'}")
        if not os.access(data.path, os.R_OK):
            raise Mistake(f"data.path={data.path}: cannot be read")
    if isinstance(data, Digits) and importlib.util.find_spec("sklearn") is None:
        raise Mistake('data=digits needs scikit-learn: pip install -c constraints.txt -e ".[digits]"')
    if config.device.name in ("cuda", "mps"):
        from trainer import device

        device.find(config.device)
    inputs, outputs = _sizes(repr(data), config)
    if config.clip.include or config.clip.exclude:
        _check_patterns(config, inputs, outputs)


_seen: dict[str, tuple[int, int]] = {}


def _sizes(key: str, config: Train) -> tuple[int, int]:
    """Inputs and outputs of the data, which is built to see whether it can be; once for all jobs of a sweep."""
    from trainer import data

    if key not in _seen:
        dataset = data.build(config.data, config.seed)
        _seen[key] = dataset.inputs, dataset.outputs
    return _seen[key]


def _check_patterns(config: Train, inputs: int, outputs: int) -> None:
    """The patterns against the model's names; the model is built without memory for its weights."""
    import torch

    from gradclip.gradients import select
    from trainer import models

    with torch.device("meta"):
        model = models.build(config.model, inputs, outputs, config.data.kind)
    try:
        select([name for name, _ in model.named_parameters()], config.clip.include, config.clip.exclude)
    except (UnmatchedPatternError, InvalidField) as error:
        raise Mistake(f"clip.{error}") from None
