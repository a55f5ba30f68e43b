"""What the tests of resumed runs share: small runs that are ended at given steps and resumed until they finish."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.support import compose, text_file
from trainer import loop
from trainer.config import Train
from trainer.run import execute_in_folder
from trainer.state import TrainState

STEPS = 12
COMMON = (f"steps={STEPS}", "evaluate_every=5", "checkpoint.every=3", "log.parameters_every=4", "log.progress=false",
          "log.flow=false")  # fmt: skip
TEXT = ("data.window=50", "data.batch_size=4", "data.sample=0", "model.hidden=8", "model.embedding=4")  # 5 an epoch
DIGITS = ("data=digits", "data.batch_size=359")  # 4 batches an epoch
LINE = ("data=line", "model=linear_net", "optimizer.lr=0.1", "data.noise=0.1")


class Killed(BaseException):
    """What SIGKILL is to a process: nothing more is done, and nothing saved."""


def end_at_steps(monkeypatch: pytest.MonkeyPatch, ends: dict[int, int | None]) -> None:
    """Ends a run in the middle of the named steps, once each: by a signal, or as SIGKILL would."""
    real, left = loop.take_step, dict(ends)

    def take_step(session: TrainState, *arguments: Any, **named: Any) -> Any:
        step = session.step + 1
        if step in left:
            number = left.pop(step)
            if number is None:
                raise Killed
            os.kill(os.getpid(), number)
        return real(session, *arguments, **named)

    monkeypatch.setattr(loop, "take_step", take_step)


def run_until_finished(config: Train, folder: Path) -> list[str]:
    """Runs and goes on until nothing ends it any more; how each part ended."""
    found: list[str] = []
    while not found or found[-1] not in ("finished", "diverged"):
        try:
            found.append(execute_in_folder(config, folder, resumed=bool(found)).state)
        except Killed:
            found.append("killed")
        random.seed(len(found))  # what else a new process would have of its own
        np.random.seed(len(found))
        torch.manual_seed(len(found))
    return found


def config_for(folder: Path, overrides: tuple[str, ...]) -> Train:
    """The configuration of a run of STEPS steps; its text, if it reads one, is written into the folder."""
    config = compose(*COMMON, *overrides)
    if config.data.name == "text":
        config.data.path = text_file(folder, 1000)
    return config
