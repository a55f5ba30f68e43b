"""Incidents that a test causes in the middle of a run, in any process."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from runner.errors import UserError
from runner.runs.run import Run
from tests.runner.toy.toy import Toy


def incident(step: int, config: Toy, run: Run) -> None:
    """Causes the incident in the file `config.incident`, such as `bug 3`, before its step; does nothing without a file.

    bug: raises RuntimeError. mistake: raises UserError. kill: ends the process by SIGKILL. wait: waits until the file
    is deleted or a signal arrives; an empty file `<incident>.reached` shows that the run waits.
    """
    while config.incident is not None and run.stop is None:
        with suppress(FileNotFoundError):
            word, due = Path(config.incident).read_text(encoding="utf-8").split()
            if int(due) == step and word == "bug":
                raise RuntimeError("a bug")
            if int(due) == step and word == "mistake":
                raise UserError("a mistake")
            if int(due) == step and word == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if int(due) == step and word == "wait":
                Path(f"{config.incident}.reached").touch()
                time.sleep(0.01)
                continue
        return
