"""A model's weights against those of a file, and whether they are finite."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner.errors import UserError
from runner.runs.weights import read_weights


def load_weights(model: nn.Module, path: Path) -> None:
    """Gives a model the weights of a checkpoint or a safetensors file. Raises UserError if they do not fit."""
    weights = read_weights(path)
    check_fit(model, weights, path)
    model.load_state_dict(weights)


def check_fit(model: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Raises UserError, with the first difference, unless the weights have the model's names and shapes."""
    own = model.state_dict()
    for name in [*own, *(name for name in weights if name not in own)]:
        here = tuple(own[name].shape) if name in own else "none"
        there = tuple(weights[name].shape) if name in weights and hasattr(weights[name], "shape") else "none"
        if here != there:
            raise UserError(f"{path}: its weights are not this model's: {name} has shape {there} there and {here} here")


def first_nonfinite(model: nn.Module) -> str | None:
    """The name of the first parameter with a nan or an infinity in it, or None. Waits for the device."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            return name
    return None
