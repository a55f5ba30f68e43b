"""Training: zero_grad, forward, backward, (unscale), clip, (check), step."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from gradclip import Clipper, ClipReport, NonFiniteGradientError
from gradclip.norms import wide_dtype
from runner.report import summary
from runner.runs import checkpoint, weights
from runner.runs.run import Diverged, Ended, Ending, Interrupted, Run
from runner.tracking.tracker import Logged, Tracker, cut_back
from trainer import data, device, models, optim
from trainer.config import Train
from trainer.data import Batch
from trainer.models import State
from trainer.monitor.diagnosis import measure, split
from trainer.monitor.divergence import Watch
from trainer.monitor.first_steps import FirstSteps
from trainer.monitor.update_norm import Change
from trainer.randomness import seed_everything
from trainer.state import Session as Session
from trainer.state import notes as notes
from trainer.state import restore

log = logging.getLogger(__name__)


def build(config: Train) -> Session:
    """Everything that a configuration asks for; the seed makes it the same every time."""
    where = device.prepare(config.device)
    seed_everything(config.seed)
    dataset = data.build(config.data, config.seed)
    model = models.build(config.model, dataset.inputs, dataset.outputs, config.data.kind).to(where)
    optimizer = optim.build(config.optimizer, model)
    clipper = Clipper(model.named_parameters(), config.clip, optimizer=optimizer)
    scaler = device.loss_scaler(config.device, where)
    states: list[State] = [None] * config.accumulate
    return Session(config, where, dataset, model, optimizer, clipper, scaler, states, Watch(config.divergence))


def run_recorded(config: Train, folder: Path, *, resumed: bool = False) -> Ending:
    """A whole run in a folder, or the rest of one, with its records, from this process."""
    run = Run(folder, config.steps, resumed=resumed)
    with run.recorded():
        execute(config, run)
    return run.ending()


def execute(config: Train, run: Run, swept: dict[str, Any] | None = None) -> None:
    """Builds, trains and sums up: the log, TensorBoard, checkpoints. Raises what ended the run early.

    swept: what a sweep varies, and its values in this run, for TensorBoard's HParams.
    """
    end = None
    with torch.autograd.set_detect_anomaly(config.detect_anomaly):
        session = build(config)
        facts = session.data.facts
        log.info("data: %s", "; ".join(f"{name} {value}" for name, value in facts.items()))
        if run.resumed:
            resume(session, run)
        if session.step == 0 and config.init_from is not None:
            weights.load(session.model, Path(config.init_from))
        tracker = Tracker(run.folder, OmegaConf.to_yaml(OmegaConf.create(asdict(config))), facts, after=session.step)
        tracker.begin(swept or {})
        try:
            train(session, run, tracker)
        except Ended as early:
            end = early
        finally:
            tracker.close(finished=end is None and sys.exception() is None)
    summary.show(run, session.history, end, None if end else sample(session))
    if end is not None:
        raise end


def resume(session: Session, run: Run) -> None:
    """Sets a session and the run's folder back to the newest good checkpoint; to the start if there is none.

    Raises UserError if there are only bad ones, or if the checkpoint belongs to another run.
    """
    found = checkpoint.newest(run.folder)
    if found is not None:
        restore(session, *found)
    checkpoint.tidy(run.folder, found[0] if found else None, session.step)
    cut_back(run.folder, found[1]["events"] if found else {})
    run.goes_on(session.config, session.step, session.history.best)
    log.info("goes on after step %d of %s", session.step, found[0].name if found else "no checkpoint")


def train(session: Session, run: Run, tracker: Tracker) -> None:
    """The loop. Raises Diverged or Interrupted where it ends early."""
    config, model, history = session.config, session.model, session.history
    first = FirstSteps(model, config.log.first_steps)
    change = Change(model, every=config.log.every == config.log.parameters_every == 1)
    model.train()
    started, earlier = time.perf_counter(), session.step
    for step, batch in enumerate(_progress(_batches(session), session), start=earlier + 1):
        stop = run.stop  # a signal makes this step the last one
        evaluates = _due(step, config.evaluate_every, config.steps)
        saves = _due(step, config.checkpoint.every, config.steps)
        # Nothing is evaluated or saved unseen: a checkpoint of bad weights would replace the last good one.
        looks = step == 1 or _due(step, config.log.every, config.steps) or evaluates or saves
        every = config.log.parameters_every
        details = looks and (step == 1 or step // every > session.detailed // every or evaluates or saves)
        examined = _copy(model) if step == 1 or evaluates else None
        if details:
            change.before()

        rate = optim.set_rate(session.optimizer, config, step)
        try:
            check, shown = step == 1 or _due(step, config.check_every, config.steps), step <= first.steps
            loss, report = take_step(session, batch, check=check, seen=first.before if shown else None)
        except NonFiniteGradientError as error:
            # At once: so a weight that is bad too was bad before its gradient.
            raise Diverged(f"{_bad_weight(model) or error}, seen at step {step}") from None
        if looks or stop is not None:
            _look_back(session, step)

        session.step = step
        if shown:
            first.after(step)
        history.dropped += report.dropped
        run.heartbeat(step)
        if looks:
            speed = (step - earlier) / (time.perf_counter() - started)
            sizes = change.after() if details else None
            logged = tracker.step(step, loss, report, rate=rate, speed=speed, dropped=history.dropped, weights=sizes)
            history.note(logged.loss, logged.before, logged.clipped)
            if logged.weight_norm is not None and not math.isfinite(logged.weight_norm) and (bad := _bad_weight(model)):
                raise Diverged(f"{bad}, seen at step {step}")
            if not report.dropped:
                _diagnose(session, logged, report, examined)
                session.watch.look(step, logged.loss)
            session.detailed = step if details else session.detailed
        if evaluates:
            _draw(session, tracker, report, step)
            _evaluate_and_keep(session, run, tracker)
        # What a signal saves is not logged: the run that goes on has the points of one that never stopped.
        if saves or (stop is not None and weights.first_nonfinite(model) is None):
            checkpoint.save(run.folder, session.parts, notes(session, tracker), keep=config.checkpoint.keep)
        if stop is not None and step < config.steps:
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
    parts, rows = len(session.states), len(batch.inputs)
    whole = [device.send(tensor, session.device) for tensor in batch[:2]]
    inputs, targets = ([tensor] if parts == 1 else tensor.tensor_split(parts) for tensor in whole)
    losses = []
    for part in range(min(parts, rows)):
        state = session.states[part] if batch.continues else None
        with device.autocast(session.config.device, session.device):
            outputs, state = session.model(inputs[part], state)
            loss = session.data.loss(outputs, targets[part])
            if parts > 1:
                loss = loss * (len(inputs[part]) / rows)
        session.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        session.states[part] = models.detach(state)
        losses.append(loss.detach())
    return torch.stack(losses).sum() if parts > 1 else losses[0]


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


def _batches(session: Session) -> Iterator[Batch]:
    """The training batches of all steps that are left."""
    config, done = session.config, session.step
    if config.repeat_batches is None:
        batches = session.data.batches(done)
    else:
        first = list(islice(session.data.batches(0), min(config.repeat_batches, config.steps)))
        batches = islice(cycle(first), done % len(first), None)
    return islice(batches, config.steps - done)


def _progress(batches: Iterator[Batch], session: Session) -> Iterator[Batch]:
    """The batches with a progress bar on a terminal, and with none in a pipe."""
    config = session.config
    disable = None if config.log.progress else True
    bar = tqdm(batches, initial=session.step, total=config.steps, unit="step", disable=disable, leave=False)
    with nullcontext() if bar.disable else logging_redirect_tqdm():  # it would print where nobody asked for a screen
        yield from bar


def _evaluate_and_keep(session: Session, run: Run, tracker: Tracker) -> None:
    history, step = session.history, session.step
    loss, metrics = evaluate(session)
    improved = history.improves(step, loss)
    tracker.evaluation(step, loss, metrics, history.best)
    tracker.flush()
    if improved:
        checkpoint.save_best(run.folder, session.parts, notes(session, tracker))
        run.update(objective=loss)
    shown = "".join(f"  {name} {value:.3f}" for name, value in metrics.items())
    log.info("step %6d  loss %.4f  validation %.4f%s", step, history.last, loss, shown)
    run.evaluated(step, loss)


def _diagnose(session: Session, logged: Logged, report: ClipReport, copies: list[Tensor] | None) -> None:
    """What the log warns of. copies: the weights before the step, where every parameter is looked at."""
    session.doctor.follow(session.step, logged.loss, logged.after, report)
    if copies:
        before, after = split(report.by_parameter())
        measured = measure(session.model, copies, before)
        session.doctor.examine(session.step, measured, after, last=session.step == session.config.steps)


def _draw(session: Session, tracker: Tracker, report: ClipReport, step: int) -> None:
    """The pictures of an evaluation, and the histograms where they are asked for."""
    if session.config.log.flow:
        tracker.picture(step, report.by_parameter())
    if session.config.log.histograms:
        named = dict(session.model.named_parameters())
        weights = {f"weight/{name}": parameter for name, parameter in named.items()}
        tracker.histograms(step, weights | {f"gradient/{name}": parameter.grad for name, parameter in named.items()})


def _look_back(session: Session, step: int) -> None:
    """Raises Diverged for what nobody looked at when it came: on an accelerator, a non-finite gradient."""
    try:
        session.clipper.raise_if_nonfinite()
    except NonFiniteGradientError as error:
        raise Diverged(f"{error}, seen at step {step}") from None


def _bad_weight(model: nn.Module) -> str | None:
    name = weights.first_nonfinite(model)
    return f"non-finite weight in {name}" if name else None


def _copy(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@torch.no_grad()
def sample(session: Session) -> str | None:
    """Something the model made, where its data set has a way to show it."""
    session.model.eval()
    return session.data.sample(session.model, session.device)


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last
