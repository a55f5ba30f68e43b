"""Training: zero_grad, forward, backward, (unscale), clip, (check), step."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from gradclip import ClipReport, NonFiniteGradientError
from runner.runs import checkpoint
from runner.runs.run import Diverged, Interrupted, Run
from runner.tracking.tracker import Logged, Tracker
from trainer.config import Train
from trainer.data import Batch
from trainer.device import autocast
from trainer.evaluate import evaluate
from trainer.models import detach_state
from trainer.monitor.diagnosis import measure, split, weight_norms
from trainer.monitor.first_steps import FirstSteps
from trainer.monitor.update_norm import snapshot, update_norms
from trainer.optimizers import match_strides, set_lr
from trainer.state import TrainState
from trainer.weights import first_nonfinite

log = logging.getLogger(__name__)


def take_step(
    state: TrainState, batch: Batch, *, check: bool, on_backward: Callable[[], None] | None = None
) -> tuple[Tensor, ClipReport]:
    """One step of the optimizer: the batch's mean loss, 0-d, and what clipping did.

    check: measure once more, right before the step, that the gradients are the clipped ones. on_backward: called
    after backward, before clipping. Raises NonFiniteGradientError and ClipCheckError.
    """
    hidden = list(state.hidden)
    state.optimizer.zero_grad()
    loss = forward_backward(state, batch)
    state.scaler.unscale_(state.optimizer)
    match_strides(state.optimizer)
    if on_backward is not None:
        on_backward()
    report = state.clipper.clip()
    if check:
        state.clipper.check()
    if report.dropped:
        state.hidden = hidden  # those of the step that is left out may be as bad as its gradients
    else:
        state.scaler.step(state.optimizer)
    state.scaler.update()
    return loss, report


def forward_backward(state: TrainState, batch: Batch) -> Tensor:
    """The batch's mean loss, 0-d, with the gradients of its micro-batches summed.

    The hidden state of each micro-batch is carried from window to window, detached: truncated back-propagation
    through time.
    """
    losses = []
    for index, (inputs, targets) in enumerate(state.micro_batches(batch)):
        with autocast(state.config.device, state.device):
            outputs, carried = state.model(inputs, state.hidden[index] if batch.continues else None)
            loss = state.data.loss(outputs, targets) * (len(inputs) / len(batch.inputs))
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        state.hidden[index] = detach_state(carried)
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def train(state: TrainState, run: Run, tracker: Tracker) -> None:
    """Takes the steps that are left. Raises Diverged or Interrupted where the run ends early."""
    config, model = state.config, state.model
    first_steps = FirstSteps(model, config.log.first_steps)
    started, done = time.perf_counter(), state.step
    model.train()
    for step, batch in enumerate(_progress(_batches(state), state), start=done + 1):
        due = due_at(step, state)
        stop = run.stop  # a signal makes this step the last one
        weights = snapshot(model) if due.parameters or due.table else None
        norms = weight_norms(model) if due.diagnosis else None

        lr = config.optimizer.lr * state.lr_factor(step)
        set_lr(state.optimizer, lr)
        try:
            on_backward = first_steps.before_clipping if due.table else None
            loss, report = take_step(state, batch, check=due.check, on_backward=on_backward)
        except NonFiniteGradientError as error:
            # At once: so a weight that is non-finite too was so before its gradient.
            raise Diverged(f"{_nonfinite_weight(state) or error}, seen at step {step}") from None
        if due.log or stop is not None:
            _raise_deferred_nonfinite(state, step)
        state.step = step
        state.history.dropped += report.dropped
        run.heartbeat(step)

        if due.table and weights is not None:
            first_steps.after_step(step, weights)
        if due.log:
            sizes = update_norms(model, weights) if due.parameters and weights is not None else None
            speed = (step - done) / (time.perf_counter() - started)
            dropped = state.history.dropped
            logged = tracker.step(step, loss, report, rate=lr, speed=speed, dropped=dropped, weights=sizes)
            _watch(state, logged, report, norms)
        weights = None  # their memory is free before anything is evaluated, and before the next copy
        if due.evaluate:
            _draw(state, tracker, report)
            _evaluate(state, run, tracker)
        # What a signal saves is not logged: the resumed run has the points of one that never stopped.
        if due.save or (stop is not None and first_nonfinite(model) is None):
            checkpoint.save(run.folder, checkpoint_content(state, tracker), keep=config.checkpoint.keep)
        if stop is not None and step < config.steps:
            raise Interrupted(stop)


@dataclass(frozen=True)
class Due:
    """What is to be done at a step, beside the step itself."""

    check: bool  # that the gradients which the optimizer gets are the clipped ones
    log: bool
    parameters: bool  # logged one by one, with the update's norm, for which the weights are copied
    table: bool  # of the first steps, which needs the copy too
    diagnosis: bool  # of every parameter's gradient
    evaluate: bool
    save: bool


def due_at(step: int, state: TrainState) -> Due:
    """What is due at a step; the last step has everything.

    Nothing is evaluated or saved unseen: a checkpoint of non-finite weights would replace the last good one.
    """
    config = state.config
    evaluate, save = (_due(step, every, config) for every in (config.evaluate_every, config.checkpoint.every))
    log_now = step == 1 or _due(step, config.log.every, config) or evaluate or save
    every = config.log.parameters_every
    return Due(
        check=step == 1 or _due(step, config.check_every, config),
        log=log_now,
        parameters=log_now and (step == 1 or step // every > state.last_parameter_log // every or evaluate or save),
        table=step <= config.log.first_steps,
        diagnosis=step == 1 or evaluate,
        evaluate=evaluate,
        save=save,
    )


def _due(step: int, every: int, config: Train) -> bool:
    return step % every == 0 or step == config.steps


def checkpoint_content(state: TrainState, tracker: Tracker) -> dict[str, object]:
    """What a checkpoint holds: the state, and the lengths of the logs, to which a resume truncates them."""
    return state.state_dict() | {"logs": tracker.written()}


def _batches(state: TrainState) -> Iterator[Batch]:
    """The training batches of all steps that are left."""
    config, done = state.config, state.step
    if config.repeat_batches is None:
        batches = state.data.batches(done)
    else:
        first = list(islice(state.data.batches(0), min(config.repeat_batches, config.steps)))
        batches = islice(cycle(first), done % len(first), None)
    return islice(batches, config.steps - done)


def _progress(batches: Iterator[Batch], state: TrainState) -> Iterator[Batch]:
    """The batches with a progress bar on a terminal, and with none in a pipe."""
    config = state.config
    disable = None if config.log.progress else True
    bar = tqdm(batches, initial=state.step, total=config.steps, unit="step", disable=disable, leave=False)
    with nullcontext() if bar.disable else logging_redirect_tqdm():  # it would print where nobody asked for a screen
        yield from bar


def _watch(state: TrainState, logged: Logged, report: ClipReport, norms: Tensor | None) -> None:
    """Looks for divergence in a logged step, and for gradients worth a warning.

    norms: the `weight_norms` before the step, where every parameter is examined. Raises Diverged.
    """
    state.history.add_step(logged.loss, logged.before, logged.clipped)
    if logged.weight_norm is not None:
        state.last_parameter_log = state.step
        if not math.isfinite(logged.weight_norm) and (bad := _nonfinite_weight(state)):
            raise Diverged(f"{bad}, seen at step {state.step}")
    if report.dropped:
        return
    state.monitor.update(state.step, logged.loss, logged.after, report)
    if norms is not None:
        before, after = split(report.by_parameter())
        measured = measure(state.model, norms, before)
        state.monitor.check_parameters(state.step, measured, after, last=state.step == state.config.steps)
    state.divergence.update(state.step, logged.loss)


def _evaluate(state: TrainState, run: Run, tracker: Tracker) -> None:
    """Evaluates, logs the result, and keeps the weights if they are the best so far."""
    history, step = state.history, state.step
    loss, metrics = evaluate(state)
    improved = history.add_evaluation(step, loss)
    tracker.evaluation(step, loss, metrics, history.best)
    tracker.flush()
    if improved:
        checkpoint.save_best(run.folder, checkpoint_content(state, tracker))
        run.update(objective=loss)
    shown = "".join(f"  {name} {value:.3f}" for name, value in metrics.items())
    log.info("step %6d  loss %.4f  validation %.4f%s", step, history.last, loss, shown)


def _draw(state: TrainState, tracker: Tracker, report: ClipReport) -> None:
    """Writes the picture of an evaluation, and the histograms where they are asked for."""
    if state.config.log.flow:
        tracker.picture(state.step, report.by_parameter())
    if state.config.log.histograms:
        named = dict(state.model.named_parameters())
        weights = {f"weight/{name}": parameter for name, parameter in named.items()}
        gradients = {f"gradient/{name}": parameter.grad for name, parameter in named.items()}
        tracker.histograms(state.step, weights | gradients)


def _raise_deferred_nonfinite(state: TrainState, step: int) -> None:
    """Raises Diverged for a non-finite gradient that, on an accelerator, nobody looked at when it came."""
    try:
        state.clipper.raise_if_nonfinite()
    except NonFiniteGradientError as error:
        raise Diverged(f"{error}, seen at step {step}") from None


def _nonfinite_weight(state: TrainState) -> str | None:
    name = first_nonfinite(state.model)
    return f"non-finite weight in {name}" if name else None
