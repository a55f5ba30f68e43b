"""The random number generators of Python, NumPy and torch: seeded, saved and restored together."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch, the accelerators included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as tensors and plain values.

    NumPy's state is converted, since torch.load with weights_only=True refuses NumPy's arrays.
    """
    numpy: Any = np.random.get_state(legacy=False)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy["state"]["pos"],
        "numpy_key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "numpy_gauss": (int(numpy["has_gauss"]), float(numpy["gauss"])),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what `rng_state` returned, without the states of accelerators that this machine lacks."""
    random.setstate(state["python"])
    has_gauss, gauss = state["numpy_gauss"]
    key: Tensor = state["numpy_key"]
    inner = {"key": key.numpy().astype(np.uint32), "pos": state["numpy"]}
    np.random.set_state({"bit_generator": "MT19937", "state": inner, "has_gauss": has_gauss, "gauss": gauss})
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
