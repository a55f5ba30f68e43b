"""All that a run consists of; how it is noted in a checkpoint, and set back from one."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradclip import Clipper
from runner.errors import UserError
from runner.report.summary import History
from runner.runs import checkpoint, weights
from runner.tracking.tracker import Tracker
from trainer import models, optim
from trainer.config import Train, flat, turned
from trainer.data import Dataset
from trainer.models import State
from trainer.monitor.diagnosis import Doctor
from trainer.monitor.divergence import Watch
from trainer.randomness import Randomness

log = logging.getLogger(__name__)


@dataclass
class Session:
    """All that a run consists of, built once from its configuration, and how far it has come."""

    config: Train
    device: torch.device
    data: Dataset
    model: nn.Module
    optimizer: Optimizer
    clipper: Clipper
    scaler: torch.amp.GradScaler
    states: list[State]  # one for each part of a split batch, carried from window to window
    watch: Watch
    history: History = field(default_factory=History)
    step: int = 0  # the last one that is done
    detailed: int = 0  # the last one whose parameters were logged one by one
    doctor: Doctor = field(init=False)

    def __post_init__(self) -> None:
        self.doctor = Doctor(self.config)

    @property
    def parts(self) -> dict[str, checkpoint.HasState]:
        """What a checkpoint holds, beside the notes."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "clipper": self.clipper,
            "scaler": self.scaler,
            "watch": self.watch,
            "doctor": self.doctor,
            "history": self.history,
            "random": Randomness(),
        }


def notes(session: Session, tracker: Tracker) -> dict[str, Any]:
    """What a checkpoint says beside the states of its parts."""
    history = session.history
    return {
        "step": session.step,
        "detailed": session.detailed,
        "best": history.best,
        "best_step": history.best_step,
        "states": [models.copied(state, torch.device("cpu")) for state in session.states],
        "data": session.data.facts,
        "config": flat(session.config),
        "events": tracker.written(),
        "place": _place(session),
    }


def restore(session: Session, path: Path, content: dict[str, Any]) -> None:
    """Sets everything that the next step depends on; raises UserError if it was not saved by this configuration."""
    config = session.config
    try:
        if names := turned(content["config"], flat(config)):
            raise UserError(f"{path}: saved with another {', '.join(names)} than the run's config.yaml says")
        if content["data"] != session.data.facts:
            raise UserError(f"{path}: the data has changed: {content['data']} is now {session.data.facts}")
        # The last step's own is taken: the run was ended after it, before it could say that it is finished.
        if content["step"] >= config.steps and not content["step"] == config.steps == content["config"]["steps"]:
            raise UserError(f"steps={config.steps}: {path} has done {content['step']} already")
        if content["place"] != (here := _place(session)):
            log.warning("saved with %s; goes on with %s: the same to rounding only", content["place"], here)
        weights.fits(session.model, content["model"], path)
        for name, part in session.parts.items():
            if name == "optimizer":
                optim.load(session.optimizer, content[name])
            else:
                part.load_state_dict(content[name])
        if len(content["states"]) != config.accumulate:
            raise UserError(f"{path}: has {len(content['states'])} hidden states for accumulate={config.accumulate}")
        session.states = [models.copied(state, session.device) for state in content["states"]]
        session.step, session.detailed = content["step"], content["detailed"]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: not a checkpoint of such a run ({why})") from error


def _place(session: Session) -> str:
    """Where the same configuration gives the same bits: sums depend on the instructions and the number of threads."""
    if session.device.type == "cuda":
        return f"torch {torch.__version__} on {torch.cuda.get_device_name(session.device)}"
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}"
    return f"torch {torch.__version__} on {session.device.type}, {cpu}"
