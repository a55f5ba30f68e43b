"""Faults, injected and counted: `python evidence/fault_injection.py` runs them all, the suite a few of each."""

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
    """How often a fault was tried, and what was lost by it. notes: what else was counted."""

    fault: str
    must_hold: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def count(self, held: bool, what: str) -> None:
        """One more, and what it was, should it not have held."""
        self.tried += 1
        if not held:
            self.lost.append(what)

    def cells(self) -> list[str]:
        """Those of its row: the fault, how often it was tried, survived and lost, and what must hold."""
        fault = self.fault + "".join(f"; {number} {what}" for what, number in self.notes.items())
        counts = (self.tried, self.tried - len(self.lost), len(self.lost))
        return [fault, *(f"{count:,}" for count in counts), self.must_hold]


def start(*arguments: str, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """`python train.py …` in the background, with one thread for torch."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TRAIN), *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True, **more)  # fmt: skip


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL. Its pipe is not read to the end: a data worker may hold it for some seconds more."""
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def continued(folder: Path, arguments: Sequence[str], **more: Any) -> subprocess.Popen[str]:
    """The run in a folder, begun if it is not there yet."""
    if (folder / "config.yaml").exists():
        return start(f"resume={folder}", cwd=folder.parent, **more)
    return start(*arguments, f"hydra.run.dir={folder}", cwd=folder.parent, **more)


def trains(folder: Path, process: subprocess.Popen[str], timeout: float = 120.0) -> bool:
    """Waits until the process has done a step of its own; False if it ended before."""
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
