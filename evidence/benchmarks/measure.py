"""Timing in alternating order, since machines are noisy: A B C, B C A, …; medians of the ratios within one turn."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

Work = Callable[[], object]
Times = dict[str, list[float]]


class Ratio(NamedTuple):
    """The median and the quartiles of ratios, each of two times within one turn."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def in_turns(works: Mapping[str, Work], turns: int, before: Callable[[], None] = lambda: None) -> Times:
    """Times each function once per turn, in rotating order, in seconds. before: runs before each one, untimed."""
    names, times = list(works), {name: [0.0] * turns for name in works}
    for work in works.values():  # warm-up: caches and memories
        before()
        work()
    for turn in range(turns):
        for number in range(len(names)):
            name = names[(turn + number) % len(names)]
            before()
            started = time.perf_counter()
            works[name]()
            times[name][turn] = time.perf_counter() - started
    return times


def ratio(times: Times, one: str, other: str) -> Ratio:
    found = [a / b for a, b in zip(times[one], times[other], strict=True)]
    low, median, high = statistics.quantiles(found, n=4)
    return Ratio(median, low, high)


def milliseconds(times: Times, name: str) -> str:
    return f"{statistics.median(times[name]) * 1e3:.3g}"


def machine() -> str:
    """Describes the machine in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text("utf-8"))):
        model = found[1]
    load = f", load average {os.getloadavg()[0]:.1f}"
    return (
        f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}{load}"
    )
