"""What a test wants to happen in the midst of a run, in whichever process it is."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from runner.errors import UserError
from runner.runs.run import Run
from tests.runner.toy.toy import Toy


def incident(step: int, config: Toy, run: Run) -> None:
    """Does before a step what the file says that `config.incident` names, such as `bug 3`; nothing without a file.

    bug: raises RuntimeError. mistake: raises UserError. kill: ends the process by SIGKILL. wait: until the file is
    gone or a signal has come;
    an empty file with `.reached` behind its name says that the run has begun to wait.
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
