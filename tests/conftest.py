"""One thread, so that tests neither disturb each other nor depend on the machine."""

import logging
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the programs that tests start, too; read when torch is imported

import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_deterministic_debug_mode("default")  # use_deterministic_algorithms would import the compiler


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """The log goes to pytest, whatever a run in this process set up."""
    yield
    logging.getLogger().setLevel(logging.WARNING)
