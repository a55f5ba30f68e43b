"""One thread, so that tests neither disturb each other nor depend on the machine; and the table of the laws."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the programs that tests start, too; read when torch is imported

import torch

from tests.support import TRIED


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notes how many examples of the laws a test tried, in a way that reaches the process that reports."""
    TRIED.clear()
    yield
    item.user_properties += [("tried", [*key, count]) for key, count in TRIED.items()]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of the laws: policy and scope by precision, and how many sets of gradients were tried."""
    table: dict[str, Counter[str]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "tried":
                table.setdefault(value[0], Counter())[value[1]] += value[2]
    if not table:
        return
    columns = ["float32", "float64", "bfloat16", "float16"]
    terminalreporter.section("laws of clipping: examples tried")
    terminalreporter.write_line(f"{'policy-scope':22}" + "".join(f"{column:>10}" for column in columns))
    for row, counts in sorted(table.items()):
        terminalreporter.write_line(f"{row:22}" + "".join(f"{counts[column]:10}" for column in columns))
    total = sum(sum(counts.values()) for counts in table.values())
    terminalreporter.write_line(f"{total} examples over {len(table)} pairs of policy and scope")
