"""The toy without torch, which most of a start's time goes to: it counts its steps and trains nothing."""

import dataclasses
import logging
import os
from pathlib import Path

from runner.errors import UserError
from runner.runs.run import Diverged, Interrupted, Run
from tests.runner.toy.incident import incident
from tests.runner.toy.toy import PROJECT as TOY
from tests.runner.toy.toy import Toy

PROJECT = dataclasses.replace(TOY, run="tests.runner.counter.counter:execute", root=Path(__file__).parent)

log = logging.getLogger(__name__)


def execute(config: Toy, run: Run) -> None:
    """Takes the steps. Raises UserError if `config.initial` names no file, Interrupted, and Diverged for a huge lr."""
    incident(0, config, run)
    if config.initial is not None and not Path(config.initial).is_file():
        raise UserError(f"initial={config.initial}: no such file")
    run.begin(config)
    log.info("visible GPUs: %s", os.environ.get("CUDA_VISIBLE_DEVICES"))
    for step in range(1, config.steps + 1):
        incident(step, config, run)
        stop = run.stop
        run.heartbeat(step)
        if stop is not None:
            raise Interrupted(stop)
        if config.lr > 1e6:
            raise Diverged(f"lr={config.lr}")
    run.update(objective=float(config.seed))
