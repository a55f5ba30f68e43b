"""A model's weights without the rest of a checkpoint, read from or written to a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from runner.errors import UserError
from runner.runs import checkpoint
from runner.runs.files import write_atomically

NOT_INSTALLED = 'safetensors is not installed: pip install -c constraints.txt -e ".[export]"'


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads weights by name from a checkpoint or a safetensors file; raises UserError for any other file."""
    if path.suffix != ".safetensors":
        return weights_in(checkpoint.load(path), path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: {NOT_INSTALLED}") from None
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from error


def weights_in(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights by name in the content of a checkpoint; raises UserError if it has none."""
    weights = content.get("model")
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"{path}: has no weights")
    return weights


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes weights to a safetensors file, which other programs read and which cannot hold code.

    metadata: entries of the file's header. Raises UserError if the file cannot be written.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise UserError(NOT_INSTALLED) from None
    # The format refuses tensors that share memory, as tied weights do.
    content = save({name: weight.detach().clone().contiguous() for name, weight in weights.items()}, metadata=metadata)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file")
    try:
        write_atomically(path, content, sync=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
