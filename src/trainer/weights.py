"""Weights: loaded from a file, checked against a model, and checked for non-finite values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner.errors import UserError
from runner.runs.weights import read_weights


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a checkpoint's or a safetensors file's weights into a model. Raises UserError if they do not fit."""
    weights = read_weights(path)
    check_fit(model, weights, path)
    model.load_state_dict(weights)


def check_fit(model: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Raises UserError, with the first difference, unless the weights have the model's names and shapes."""
    expected = model.state_dict()
    for name in [*expected, *(name for name in weights if name not in expected)]:
        in_model = tuple(expected[name].shape) if name in expected else "none"
        in_file = tuple(weights[name].shape) if name in weights and hasattr(weights[name], "shape") else "none"
        if in_model != in_file:
            raise UserError(
                f"{path}: its weights do not fit this model: {name} has shape {in_file} in the file, "
                f"{in_model} in the model"
            )


def first_nonfinite(model: nn.Module) -> str | None:
    """The name of the first parameter with a nan or infinite element, or None. Waits for the device."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            return name
    return None
