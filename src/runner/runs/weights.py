"""A model's bare weights: read from a file, written to one, and looked through."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import UserError
from runner.runs import checkpoint
from runner.runs.files import write_atomically

MISSING = 'safetensors is not installed: pip install -c constraints.txt -e ".[export]"'


def read(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint or in a safetensors file, by name; raises UserError for anything else."""
    if path.suffix != ".safetensors":
        return in_checkpoint(checkpoint.load(path), path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: {MISSING}") from None
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from error


def in_checkpoint(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint's content; raises UserError if there are none."""
    found = content.get("model")
    if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise UserError(f"{path}: has no weights in it")
    return found


def write(path: Path, weights: Mapping[str, Tensor], facts: dict[str, str]) -> None:
    """A safetensors file, which holds no code and which other programs read; `facts` go into its header."""
    try:
        from safetensors.torch import save
    except ImportError:
        raise UserError(MISSING) from None
    # The format takes no two tensors that share memory, as tied ones do.
    content = save({name: weight.detach().clone().contiguous() for name, weight in weights.items()}, metadata=facts)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file")
    try:
        write_atomically(path, content, sync=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def load(model: nn.Module, path: Path) -> None:
    """Gives a model the weights of a file; raises UserError if they are not those of such a model."""
    weights = read(path)
    fits(model, weights, path)
    model.load_state_dict(weights)


def fits(model: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Raises UserError, with the first difference, unless the weights have the model's names and shapes."""
    own = model.state_dict()
    for name in [*own, *(name for name in weights if name not in own)]:
        here = tuple(own[name].shape) if name in own else "none"
        there = tuple(weights[name].shape) if name in weights and hasattr(weights[name], "shape") else "none"
        if here != there:
            raise UserError(f"{path}: its weights are not this model's: {name} has shape {there} there and {here} here")


def first_nonfinite(model: nn.Module) -> str | None:
    """The name of the first parameter with a nan or an infinity in it. Waits for the device."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            return name
    return None
