"""One thread, so that tests neither disturb each other nor depend on the machine."""

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """The log goes to pytest, whatever a run in this process set up."""
    yield
    logging.getLogger().setLevel(logging.WARNING)
