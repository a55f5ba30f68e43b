"""A model's bare weights, by name: read from a checkpoint or a safetensors file, and written to one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from runner.errors import UserError
from runner.runs import checkpoint
from runner.runs.files import write_atomically

MISSING = 'safetensors is not installed: pip install -c constraints.txt -e ".[export]"'


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint or in a safetensors file, by name; raises UserError for anything else."""
    if path.suffix != ".safetensors":
        return weights_in(checkpoint.load(path), path)
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


def weights_in(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint's content; raises UserError if there are none."""
    found = content.get("model")
    if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise UserError(f"{path}: has no weights in it")
    return found


def write_weights(path: Path, weights: Mapping[str, Tensor], facts: dict[str, str]) -> None:
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
