"""Fixtures for all tests: torch uses one thread, and logging is reset after each test."""

import logging
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, also by programs that tests start

import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_deterministic_debug_mode("default")  # use_deterministic_algorithms would import the compiler


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Resets the log level that a run in this process may have set."""
    yield
    logging.getLogger().setLevel(logging.WARNING)
