"""What a configuration needs of the machine, the data and the model, looked at before a run has a folder."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradclip.errors import InvalidField, UnmatchedPatternError
from runner.errors import UserError
from trainer.config import Digits, Text, Train
from trainer.imports import bring_torch

if TYPE_CHECKING:
    from torch import nn


def check(config: Train) -> None:
    """Raises UserError. What can be looked up without torch comes first; then the data is built as the run will."""
    data = config.data
    if isinstance(data, Text) and data.path is not None:
        if not Path(data.path).is_file():
            raise UserError(f"data.path={data.path}: {'not a file' if Path(data.path).exists() else 'no such file'}")
        if not os.access(data.path, os.R_OK):
            raise UserError(f"data.path={data.path}: cannot be read")
        if (size := Path(data.path).stat().st_size) > data.LARGEST:
            raise UserError(f"data.path={data.path}: {size:,} bytes; the whole text is held in memory, and "
                          f"{data.LARGEST:,} are the most")  # fmt: skip
    if isinstance(data, Digits) and importlib.util.find_spec("sklearn") is None:
        raise UserError('data=digits needs scikit-learn: pip install -c constraints.txt -e ".[digits]"')
    bring_torch()
    if config.device.name in ("cuda", "mps"):
        from trainer import device

        device.find(config.device)
    inputs, outputs = _sizes(repr(data), config)
    _check_memory(config, inputs, outputs)
    if config.clip.include or config.clip.exclude:
        _check_patterns(config, inputs, outputs)
    if config.init_from is not None:
        _check_weights(config, config.init_from, inputs, outputs)


_seen: dict[str, tuple[int, int]] = {}


def _sizes(key: str, config: Train) -> tuple[int, int]:
    """Inputs and outputs of the data, which is built to see whether it can be; once for all jobs of a sweep."""
    from trainer import data

    if key not in _seen:
        dataset = data.build(config.data, config.seed)
        _seen[key] = dataset.inputs, dataset.outputs
    return _seen[key]


def _bare_model(config: Train, inputs: int, outputs: int) -> "nn.Module":
    """The model without memory for its weights: names and shapes."""
    import torch
    from torch import nn
    from torch.overrides import TorchFunctionMode

    from trainer import models

    class Undrawn(TorchFunctionMode):
        """Leaves normal draws out: on the meta device, and there alone, torch imports its compiler for them."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in (nn.init.normal_, torch.Tensor.normal_):
                return args[0] if args else kwargs["tensor"]
            return func(*args, **kwargs)

    with torch.device("meta"), Undrawn():
        return models.build(config.model, inputs, outputs, config.data.kind)


def _check_memory(config: Train, inputs: int, outputs: int) -> None:
    """Weights and gradients against the memory of this machine: an accelerator seldom has more."""
    weights = sum(parameter.numel() for parameter in _bare_model(config, inputs, outputs).parameters())
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    if there is not None and (needed := 8 * weights) > there:
        raise UserError(f"model={config.model.name}: {weights:,} weights and their gradients need {needed / 1e9:,.0f} GB,"
                      f" and this machine has {there / 1e9:,.0f}")  # fmt: skip


def _check_weights(config: Train, path: str, inputs: int, outputs: int) -> None:
    """The file that a run starts from: whether it can be read, and whether it fits the model."""
    from runner.runs import weights

    try:
        weights.fits(_bare_model(config, inputs, outputs), weights.read(Path(path)), Path(path))
    except UserError as mistake:
        raise UserError(f"init_from={path}: {str(mistake).removeprefix(f'{path}: ')}") from mistake


def _check_patterns(config: Train, inputs: int, outputs: int) -> None:
    """The patterns against the model's names."""
    from gradclip.gradients import select

    names = [name for name, _ in _bare_model(config, inputs, outputs).named_parameters()]
    try:
        select(names, config.clip.include, config.clip.exclude)
    except (UnmatchedPatternError, InvalidField) as error:
        raise UserError(f"clip.{error}") from None
