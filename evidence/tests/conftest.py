"""The fixtures of tests/, and the marker of slow tests."""

import pytest

from tests.conftest import one_thread, quiet_log

__all__ = ["one_thread", "quiet_log"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: not run by make evidence-quick")
