"""Training: zero_grad, forward, backward, (unscale), clip, (check), step."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from gradclip import Clipper, ClipReport, NonFiniteGradientError
from gradclip.norms import combine, tensor_norms, wide_dtype
from trainer import checkpoint, data, device, models, optim, summary
from trainer.config import Divergence, Train
from trainer.data import Batch, Dataset
from trainer.diagnosis import Doctor, measure, split
from trainer.first_steps import FirstSteps
from trainer.models import State
from trainer.run import Diverged, Ending, Interrupted, Run, seed_everything
from trainer.summary import History
from trainer.tracking import Logged, Tracker

log = logging.getLogger(__name__)


@dataclass
class Session:
    """All that a run consists of, built once from its configuration."""

    config: Train
    device: torch.device
    data: Dataset
    model: nn.Module
    optimizer: Optimizer
    clipper: Clipper
    scaler: torch.amp.GradScaler
    states: list[State]  # one for each part of a split batch, carried from window to window

    @property
    def parts(self) -> dict[str, checkpoint.HasState]:
        """What a checkpoint holds."""
        return {"model": self.model, "optimizer": self.optimizer, "clipper": self.clipper, "scaler": self.scaler}


def build(config: Train) -> Session:
    """Everything that a configuration asks for; the seed makes it the same every time."""
    where = device.prepare(config.device)
    seed_everything(config.seed)
    dataset = data.build(config.data, config.seed)
    model = models.build(config.model, dataset.inputs, dataset.outputs, config.data.kind).to(where)
    optimizer = optim.build(config.optimizer, model)
    clipper = Clipper(model.named_parameters(), config.clip, optimizer=optimizer)
    scaler = device.loss_scaler(config.device, where)
    return Session(config, where, dataset, model, optimizer, clipper, scaler, [None] * config.accumulate)


def run_recorded(config: Train, folder: Path) -> Ending:
    """A whole run in a folder, with its records, from this process."""
    run = Run(folder, config.steps)
    with run.recorded():
        execute(config, run)
    return run.ending()


def execute(config: Train, run: Run) -> None:
    """Builds, trains and sums up: the log, TensorBoard, checkpoints. Raises Diverged or Interrupted at the end."""
    history, end = History(), None
    with torch.autograd.set_detect_anomaly(config.detect_anomaly):
        session = build(config)
        tracker = Tracker(run.folder, OmegaConf.to_yaml(OmegaConf.structured(config)), session.data.facts)
        log.info("data: %s", "; ".join(f"{name} {value}" for name, value in session.data.facts.items()))
        try:
            train(session, run, tracker, history)
        except (Diverged, Interrupted) as early:
            end = early
        finally:
            tracker.close()
    summary.show(run, history, end, None if end else sample(session))
    if end is not None:
        raise end


def train(session: Session, run: Run, tracker: Tracker, history: History) -> None:
    """The loop. Raises Diverged or Interrupted where it ends early."""
    config, model = session.config, session.model
    watch, detailed = Watch(config.divergence), 0
    doctor, first = Doctor(config), FirstSteps(model, config.log.first_steps)
    model.train()
    started = time.perf_counter()
    for step, batch in enumerate(_progress(_batches(session), config), start=1):
        stop = run.stop  # a signal makes this step the last one
        evaluates = _due(step, config.evaluate_every, config.steps)
        saves = _due(step, config.checkpoint.every, config.steps) or stop is not None
        # Nothing is evaluated or saved unseen: a checkpoint of bad weights would replace the last good one.
        looks = step == 1 or _due(step, config.log.every, config.steps) or evaluates or saves
        every = config.log.parameters_every
        details = looks and (step == 1 or step // every > detailed // every or evaluates or saves)
        weights = _copy(model) if details else None

        rate = optim.set_rate(session.optimizer, config, step)
        try:
            check, shown = step == 1 or _due(step, config.check_every, config.steps), step <= first.steps
            loss, report = take_step(session, batch, check=check, seen=first.before if shown else None)
            if looks:
                session.clipper.raise_if_nonfinite()
        except NonFiniteGradientError as error:
            raise Diverged(f"{error}, seen at step {step}") from None

        if shown:
            first.after(step)
        history.dropped += report.dropped
        if looks:
            speed = step / (time.perf_counter() - started)
            sizes = _weight_sizes(model, weights) if weights else None
            logged = tracker.step(step, loss, report, rate=rate, speed=speed, dropped=history.dropped, weights=sizes)
            history.note(logged.loss, logged.before, logged.clipped)
            run.heartbeat(step)
            if not report.dropped:
                doctor.follow(step, logged.loss, logged.after, report)
                if weights and (step == 1 or evaluates):
                    before, after = split(logged.parameters)
                    doctor.examine(step, measure(model, weights, before), after, last=step == config.steps)
                watch.look(step, logged.loss, logged.weight_norm)
        detailed = step if details else detailed
        if evaluates:
            _draw(session, tracker, logged, step)
            _evaluate_and_keep(session, run, tracker, history, step)
        if saves:
            checkpoint.save(run.folder, session.parts, _notes(session, history, step), keep=config.checkpoint.keep)
        if stop is not None:
            raise Interrupted(stop)


def take_step(
    session: Session, batch: Batch, *, check: bool, seen: Callable[[], None] | None = None
) -> tuple[Tensor, ClipReport]:
    """One step of the optimizer: the batch's mean loss, 0-d, and what clipping did.

    seen: called while the gradients are those of backward.
    """
    states = list(session.states)
    session.optimizer.zero_grad()
    loss = forward_backward(session, batch)
    session.scaler.unscale_(session.optimizer)
    if seen is not None:
        seen()
    report = session.clipper.clip()
    if check:
        optim.mend_fused(session.optimizer)
        session.clipper.check()
    if report.dropped:
        session.states = states  # those of the step that is left out may be as bad as its gradients
    else:
        session.scaler.step(session.optimizer)
    session.scaler.update()
    return loss, report


def forward_backward(session: Session, batch: Batch) -> Tensor:
    """Sums the gradients of all parts of a batch, and returns the batch's mean loss, 0-d.

    A batch is split along its rows, never along time. The hidden state goes on from window to window,
    without its history: truncated back-propagation through time.
    """
    parts = len(session.states)
    inputs, targets = (device.send(tensor, session.device).tensor_split(parts) for tensor in batch[:2])
    total = torch.zeros((), device=session.device)
    for part in range(min(parts, len(batch.inputs))):
        state = session.states[part] if batch.continues else None
        with device.autocast(session.config.device, session.device):
            outputs, state = session.model(inputs[part], state)
            loss = session.data.loss(outputs, targets[part]) * (len(inputs[part]) / len(batch.inputs))
        session.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        session.states[part] = models.detach(state)
        total += loss.detach()
    return total


@torch.no_grad()
def evaluate(session: Session) -> tuple[float, dict[str, float]]:
    """The mean loss and metrics over all held-out data."""
    session.model.eval()
    sums: dict[str, Tensor] = {}
    count, state, wide = 0, None, wide_dtype(session.device)
    for batch in session.data.validation():
        inputs, targets = (device.send(tensor, session.device) for tensor in batch[:2])
        with device.autocast(session.config.device, session.device):
            outputs, state = session.model(inputs, state if batch.continues else None)
            means = {"loss": session.data.loss(outputs, targets), **session.data.metrics(outputs, targets)}
        for name, mean in means.items():
            sums[name] = sums.get(name, 0.0) + mean.to(wide) * targets.numel()
        count += targets.numel()
    session.model.train()
    metrics = {name: total.item() / count for name, total in sums.items()}
    return metrics.pop("loss"), metrics


class Watch:
    """The one rule of divergence: a non-finite loss or weight, or a smoothed loss far above its start."""

    def __init__(self, config: Divergence):
        self._config = config
        self._first = self._smoothed = math.nan

    def look(self, step: int, loss: float, weight_norm: float | None = None) -> None:
        """Raises Diverged if the values of a logged step say so."""
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at step {step}")
        if weight_norm is not None and not math.isfinite(weight_norm):
            raise Diverged(f"a weight is not finite at step {step}")
        if math.isnan(self._first):
            self._first = self._smoothed = loss
        past = self._config.smoothing
        self._smoothed = past * self._smoothed + (1 - past) * loss
        factor = self._config.factor
        # By the first loss's size, so that a negative one has a threshold above it, and 0 one above rounding.
        if factor is not None and self._smoothed > self._first + (factor - 1) * max(abs(self._first), 1e-3):
            raise Diverged(
                f"the smoothed training loss {self._smoothed:.4g} at step {step} is more than "
                f"{factor:g} times the first one, {self._first:.4g}"
            )


def _batches(session: Session) -> Iterator[Batch]:
    """As many training batches as there are steps."""
    config = session.config
    batches = session.data.batches(0)
    if config.repeat_batches is not None:
        batches = cycle(list(islice(batches, config.repeat_batches)))
    return islice(batches, config.steps)


def _progress(batches: Iterator[Batch], config: Train) -> Iterator[Batch]:
    """The batches with a progress bar on a terminal, and with none in a pipe."""
    disable = None if config.log.progress else True
    with logging_redirect_tqdm():
        yield from tqdm(batches, total=config.steps, unit="step", disable=disable, leave=False)


def _evaluate_and_keep(session: Session, run: Run, tracker: Tracker, history: History, step: int) -> None:
    loss, metrics = evaluate(session)
    tracker.evaluation(step, loss, metrics)
    tracker.flush()
    if history.improves(step, loss):
        checkpoint.save_best(run.folder, session.parts, _notes(session, history, step))
        run.update(objective=loss)
    shown = "".join(f"  {name} {value:.3f}" for name, value in metrics.items())
    log.info("step %6d  loss %.4f  validation %.4f%s", step, history.last, loss, shown)


def _draw(session: Session, tracker: Tracker, logged: Logged, step: int) -> None:
    """The pictures of an evaluation, and the histograms where they are asked for."""
    if session.config.log.flow:
        tracker.picture(step, logged.parameters)
    if session.config.log.histograms:
        named = dict(session.model.named_parameters())
        weights = {f"weight/{name}": parameter for name, parameter in named.items()}
        tracker.histograms(step, weights | {f"gradient/{name}": parameter.grad for name, parameter in named.items()})


def _notes(session: Session, history: History, step: int) -> dict[str, Any]:
    """What a checkpoint says beside the states of its parts."""
    return {"step": step, "best": history.best, "best_step": history.best_step, "data": session.data.facts}


def _copy(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@torch.no_grad()
def _weight_sizes(model: nn.Module, earlier: list[Tensor]) -> dict[str, Tensor]:
    """The norm of all weights, and the norm of the step's change as a share of it."""
    weights = [parameter.detach() for parameter in model.parameters()]
    size = combine(tensor_norms(weights, 2.0), 2.0)
    change = combine(tensor_norms(torch._foreach_sub(weights, earlier), 2.0), 2.0)
    return {"weight_norm": size, "update_ratio": torch.where(size > 0, change / size, 0.0)}


@torch.no_grad()
def sample(session: Session) -> str | None:
    """Something the model made, where its data set has a way to show it."""
    session.model.eval()
    return session.data.sample(session.model, session.device)


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last
