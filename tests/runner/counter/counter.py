"""The toy without torch, whose import takes most of the time of a start: it counts its steps and trains nothing."""

import json
import logging
import os
from pathlib import Path

from runner.config import Project
from runner.errors import UserError
from runner.runs.files import write_atomically
from runner.runs.run import Diverged, Interrupted, Run
from runner.tracking.metrics import MetricsWriter
from runner.tracking.tags import VALIDATION_LOSS
from tests.runner.toy.incident import incident
from tests.runner.toy.toy import PROJECT as TOY
from tests.runner.toy.toy import Toy


class CounterProject(Project[Toy]):
    """A project with a train.py of its own and the toy's configuration."""

    @property
    def conf(self) -> Path:
        return TOY.conf


PROJECT = CounterProject(schema=TOY.schema, run="tests.runner.counter.counter:execute", root=Path(__file__).parent)
COUNT_FILE = "counted.json"  # instead of a checkpoint: the number of steps taken

log = logging.getLogger(__name__)


def execute(config: Toy, run: Run) -> None:
    """Takes the steps, with a loss that falls the faster the larger lr is.

    Raises UserError if `config.initial` names no file, Interrupted, and Diverged for a huge lr.
    """
    incident(0, config, run)
    if config.initial is not None and not Path(config.initial).is_file():
        raise UserError(f"initial={config.initial}: no such file")
    done = json.loads((run.folder / COUNT_FILE).read_text()) if (run.folder / COUNT_FILE).is_file() else 0
    if run.resumed:
        log.info("resumed after step %d", done)
    run.begin(config, done)
    log.info("visible GPUs: %s", os.environ.get("CUDA_VISIBLE_DEVICES"))
    metrics = MetricsWriter(run.folder)
    for step in range(done + 1, config.steps + 1):
        incident(step, config, run)
        stop = run.stop
        run.heartbeat(step)
        write_atomically(run.folder / COUNT_FILE, json.dumps(step).encode())
        if config.lr > 1e6:
            raise Diverged(f"lr={config.lr}")
        loss = 1 / (1 + config.lr * step) + config.seed / 100
        metrics.write(step, {VALIDATION_LOSS: loss})
        run.update(objective=loss)
        if stop is not None:
            raise Interrupted(stop)
