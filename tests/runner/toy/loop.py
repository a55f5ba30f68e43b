"""The training loop of the toy project, which uses every function that the runner offers a loop."""

import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from gradclip import Clipper, ClipReport, NonFiniteGradientError
from runner.config import flatten, incompatible_keys
from runner.errors import UserError
from runner.report import summary
from runner.runs import checkpoint
from runner.runs.run import Diverged, Interrupted, Run, RunStopped
from runner.tracking.tracker import Tracker
from runner.tracking.truncation import truncate_logs
from tests.runner.toy.incident import incident
from tests.runner.toy.toy import Linear, Toy

VALUES = ("step", "best", "best_step", "losses", "norms", "clipped")

log = logging.getLogger(__name__)


class State:
    """The state of a run that its checkpoints hold."""

    def __init__(self, config: Toy):
        """Raises UserError if `config.initial` names no file with a number."""
        self.config, self.step = config, 0
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = nn.Linear(3, 1)
        for parameter in self.model.parameters():
            nn.init.normal_(parameter, generator=self.generator)
            if config.initial is not None:
                nn.init.constant_(parameter, read_number(config.initial))
        self.clipper = Clipper(self.model.named_parameters(), config.clip)
        self.best: float | None = None
        self.best_step = 0
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.clipped = 0

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "clipper")}
        values = {name: getattr(self, name) for name in VALUES}
        return parts | values | {"random": self.generator.get_state(), "config": flatten(self.config)}

    def load_state_dict(self, content: dict[str, Any], path: Path) -> None:
        if names := incompatible_keys(content["config"], self.config):
            raise UserError(f"{path}: saved with another {', '.join(names)}")
        for name in ("model", "clipper"):
            getattr(self, name).load_state_dict(content[name])
        for name in VALUES:
            setattr(self, name, content[name])
        self.generator.set_state(content["random"])


def execute(config: Toy, run: Run) -> None:
    """Builds and trains a run and prints its summary. Raises RunStopped if it ended early, and UserError."""
    incident(0, config, run)
    state, finished, stopped = State(config), False, None
    facts = {"inputs": "3", "visible GPUs": os.environ.get("CUDA_VISIBLE_DEVICES", "all")}
    log.info("data: %s", facts)
    if run.resumed:
        resume(state, run)
    run.begin(config, state.step, state.best)
    tracker = Tracker(run.folder, OmegaConf.to_yaml(OmegaConf.create(asdict(config))), facts, after=state.step)
    tracker.begin(run.swept)
    try:
        train(state, run, tracker)
        finished = True
    except RunStopped as early:
        stopped = early
    finally:
        tracker.close(finished=finished)
    losses = (state.losses[0], state.losses[-1]) if state.losses else None
    clipped = state.clipped / max(len(state.losses), 1)
    best = None if state.best is None else (state.best, state.best_step)
    summary.show(run, stopped, losses=losses, best=best, clipped=clipped, norms=state.norms)
    if stopped is not None:
        raise stopped


def resume(state: State, run: Run) -> None:
    found = checkpoint.load_newest(run.folder)
    if found is not None:
        state.load_state_dict(found[1], found[0])
    checkpoint.quarantine_corrupt(run.folder, found[0] if found else None, state.step)
    truncate_logs(run.folder, found[1]["logs"] if found else {})
    log.info("resumed after step %d", state.step)


def train(state: State, run: Run, tracker: Tracker) -> None:
    """Takes the remaining steps."""
    config, done, started = state.config, state.step, time.perf_counter()
    for step in range(done + 1, config.steps + 1):
        incident(step, config, run)
        stop, before, last = run.stop, flat(state.model), step == config.steps
        lr = config.lr * lr_factor(config, step)
        loss, report = take_step(state, lr)
        if not loss.isfinite():
            raise Diverged(f"the loss is {loss.item()} at step {step}")
        state.step = step
        run.heartbeat(step)
        evaluated, saved = (last or step % every == 0 for every in (config.evaluate_every, config.checkpoint.every))
        if step == 1 or evaluated or saved or step % config.log.every == 0:
            detailed = step == 1 or evaluated or step % config.log.parameters_every == 0
            after = flat(state.model)
            norms = torch.stack([after.norm(), (after - before).norm()]) if detailed else None
            speed = (step - done) / (time.perf_counter() - started)
            logged = tracker.step(step, loss, report, lr=lr, steps_per_second=speed, dropped=0, update_norms=norms)
            state.losses.append(logged.loss)
            state.norms.append(logged.before)
            state.clipped += logged.clipped
        if evaluated:
            draw(state, tracker, report)
            evaluate(state, run, tracker)
        if saved or stop is not None:
            checkpoint.save(run.folder, content(state, tracker), keep=config.checkpoint.keep)
        if stop is not None and not last:
            raise Interrupted(stop)


def take_step(state: State, lr: float) -> tuple[Tensor, ClipReport]:
    """The loss, 0-d, and what clipping did. Raises Diverged for a gradient that is not finite."""
    state.model.zero_grad()
    inputs = torch.randn(8, 3, generator=state.generator)
    loss = mse_loss(state.model(inputs), state.config.target * inputs.sum(1, keepdim=True))
    loss.backward()
    try:
        report = state.clipper.clip()
    except NonFiniteGradientError as error:
        raise Diverged(f"{error}, at step {state.step + 1}") from None
    with torch.no_grad():  # torch.optim takes a second to import
        for parameter in state.model.parameters():
            parameter.sub_(parameter.grad, alpha=lr)
    return loss.detach(), report


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


def draw(state: State, tracker: Tracker, report: ClipReport) -> None:
    if state.config.log.gradient_norms:
        tracker.gradient_norms(state.step, state.norms, 0.0, limits_all=True)
    if state.config.log.histograms:
        weights = {f"weight/{name}": weight for name, weight in state.model.named_parameters()}
        gradients = {f"gradient/{name}": weight.grad for name, weight in state.model.named_parameters()}
        tracker.histograms(state.step, weights | gradients)


def evaluate(state: State, run: Run, tracker: Tracker) -> None:
    inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = state.model(inputs) - state.config.target * inputs.sum(1, keepdim=True)
    loss = error.square().mean().item()
    improved = state.best is None or loss < state.best
    if improved:
        state.best, state.best_step = loss, state.step
    tracker.evaluation(state.step, loss, {"largest_error": error.abs().max().item()}, state.best)
    tracker.flush()
    if improved:
        checkpoint.save_best(run.folder, content(state, tracker))
        run.update(objective=loss)
    log.info("step %d  validation %.4f", state.step, loss)


def content(state: State, tracker: Tracker) -> dict[str, Any]:
    return state.state_dict() | {"logs": tracker.log_lengths()}


def lr_factor(config: Toy, step: int) -> float:
    if not isinstance(config.schedule, Linear):
        return 1.0
    return 1 - (1 - config.schedule.final) * step / config.steps


def read_number(path: str) -> float:
    try:
        return float(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"initial={path}: {error}") from error
