"""Injected faults, one module per kind; evidence/fault_injection.py runs all of them, the tests a few of each."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.runs.status import read_status
from tests.support import ROOT

TRAIN = ROOT / "train.py"


@dataclass
class Tally:
    """The results of one kind of fault.

    must_hold: what is required after it. tried: the number of faults. lost: a description of each failure.
    notes: further counts.
    """

    fault: str
    must_hold: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def count(self, held: bool, what: str) -> None:
        """Counts one fault. held: whether the requirement held. what: the description if it did not."""
        self.tried += 1
        if not held:
            self.lost.append(what)

    def cells(self) -> list[str]:
        """The cells of its row in the table: the fault, tried, survived, lost, and what must hold."""
        fault = self.fault + "".join(f"; {number} {what}" for what, number in self.notes.items())
        counts = (self.tried, self.tried - len(self.lost), len(self.lost))
        return [fault, *(f"{count:,}" for count in counts), self.must_hold]


def start(*arguments: str, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """Starts `python train.py …` in the background, with one thread for torch."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TRAIN), *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True, **more)  # fmt: skip


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a process by SIGKILL. Its stderr is closed unread: a data worker may keep it open for seconds."""
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def start_or_resume(folder: Path, arguments: Sequence[str], **more: Any) -> subprocess.Popen[str]:
    """Resumes the run in a folder, or starts it if the folder has none."""
    if (folder / "config.yaml").exists():
        return start(f"resume={folder}", cwd=folder.parent, **more)
    return start(*arguments, f"hydra.run.dir={folder}", cwd=folder.parent, **more)


def wait_for_a_step(folder: Path, process: subprocess.Popen[str], timeout: float = 120.0) -> bool:
    """Waits until the process has trained a step; returns False if it ended before."""
    log, end = folder / "train.log", time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        if (
            read_status(folder).get("pid") == process.pid
            and log.exists()
            and list(folder.glob(f"events*.{process.pid}.*"))
        ):
            return True
        time.sleep(0.02)
    return process.poll() is None
