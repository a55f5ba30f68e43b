"""Small runs for the tests of resumption, which are ended at given steps and resumed until they finish."""

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
          "log.gradient_norms=false")  # fmt: skip
TEXT = ("data.window=50", "data.batch_size=4", "data.sample=0", "model.hidden=8", "model.embedding=4")  # 5 an epoch
DIGITS = ("data=digits", "data.batch_size=359")  # 4 batches an epoch
LINE = ("data=line", "model=linear_net", "optimizer.lr=0.1", "data.noise=0.1")


class Killed(BaseException):
    """Stands for a SIGKILL in tests within one process: no handler catches it, so that nothing more is saved."""


def end_at_steps(monkeypatch: pytest.MonkeyPatch, ends: dict[int, int | None]) -> None:
    """Ends runs during the given steps, once each: by the signal of this number, or by Killed for None."""
    real, remaining = loop.take_step, dict(ends)

    def take_step(state: TrainState, *arguments: Any, **named: Any) -> Any:
        step = state.step + 1
        if step in remaining:
            number = remaining.pop(step)
            if number is None:
                raise Killed
            os.kill(os.getpid(), number)
        return real(state, *arguments, **named)

    monkeypatch.setattr(loop, "take_step", take_step)


def run_until_finished(config: Train, folder: Path) -> list[str]:
    """Starts a run and resumes it until it has finished or diverged. Returns its state at the end of each start."""
    states: list[str] = []
    while not states or states[-1] not in ("finished", "diverged"):
        try:
            states.append(execute_in_folder(config, folder, resumed=bool(states)).state)
        except Killed:
            states.append("killed")
        random.seed(len(states))  # a new process has other random states
        np.random.seed(len(states))
        torch.manual_seed(len(states))
    return states


def config_for(folder: Path, overrides: tuple[str, ...]) -> Train:
    """The configuration of a run of STEPS steps; its text, if it reads one, is written into the folder."""
    config = compose(*COMMON, *overrides)
    if config.data.name == "text":
        config.data.path = text_file(folder, 1000)
    return config
