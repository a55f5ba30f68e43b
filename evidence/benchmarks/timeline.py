"""`python timeline.py <seconds since 1970> train.py …`: runs a program to its first step, and prints how long each
phase took.

A process of its own for every run, which evidence/benchmarks/start.py starts. The functions between which the phases
lie are wrapped, and what would be imported in the midst of one is imported just before it.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES: dict[str, tuple[float, float]] = {}  # seconds on the clock, and of the processor
_last = (float(sys.argv[1]), 0.0)


def mark(phase: str) -> None:
    """What has passed since the mark before belongs to this phase."""
    global _last
    now = (time.time(), time.process_time())
    wall, work = PHASES.get(phase, (0.0, 0.0))
    PHASES[phase] = (wall + now[0] - _last[0], work + now[1] - _last[1])
    _last = now


def wrap(owner: Any, name: str, before: str, then: Callable[[], None] | str) -> None:
    """At every call, marks the phase that ends with it; then the one that it is, or does first what is given."""
    wrapped = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        mark(before)
        if callable(then):
            then()
        result = wrapped(*args, **kwargs)
        if isinstance(then, str):
            mark(then)
        return result

    setattr(owner, name, call)


def watch() -> None:
    import hydra  # noqa: F401

    mark("import Hydra")
    from runner.cli import compose
    from runner.cli import preflight as cli

    mark("import this project")
    wrap(compose.Composer, "compose", "read the command, find the configuration", "compose")
    wrap(cli, "check_machine", "check keys, values and folder", watch_checks)
    wrap(cli, "run", "Hydra: folder, .hydra, log", watch_run)


def watch_checks() -> None:
    from trainer import imports, needs

    mark("import this project")
    imports.bring_torch()
    mark("import torch")
    wrap(needs, "check", "import this project", "look at data, model and memory")


def watch_run() -> None:
    import torch.utils.tensorboard  # noqa: F401

    mark("import TensorBoard")
    from runner.tracking import tracker as tracking
    from trainer import loop

    mark("import this project")
    wrap(loop, "build", "config.yaml, status.json, lock", "build data, model and optimizer")
    wrap(tracking.Tracker, "__init__", "texts for TensorBoard", "begin the event file")
    wrap(tracking.Tracker, "step", "first step", "first step")
    step = tracking.Tracker.step

    def first(*args: Any, **kwargs: Any) -> None:
        step(*args, **kwargs)
        print(json.dumps(PHASES), flush=True)
        os._exit(0)

    tracking.Tracker.step = first  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    mark("start Python")
    del sys.argv[:2]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    watch()
    runpy.run_path(sys.argv[0], run_name="__main__")
