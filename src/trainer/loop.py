"""Training: zero_grad, forward, backward, (unscale), clip, (check), step."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor

from gradclip import ClipReport, NonFiniteGradientError
from gradclip.policies import BlockPolicy
from runner.printable import format_loss
from runner.runs import checkpoint
from runner.runs.run import Diverged, Interrupted, Run
from runner.tracking.tracker import LoggedStep, Tracker
from trainer.config import Train
from trainer.data import Batch
from trainer.device import autocast
from trainer.evaluate import evaluate
from trainer.models import detach_state
from trainer.monitor.first_steps import FirstSteps
from trainer.monitor.marks import measure, split_norms, weight_norms
from trainer.monitor.update_norm import snapshot, update_norms
from trainer.optimizers import match_strides, set_lr
from trainer.progress import Progress
from trainer.state import TrainState
from trainer.weights import first_nonfinite

log = logging.getLogger(__name__)


def take_step(
    state: TrainState, batch: Batch, *, check: bool, on_backward: Callable[[], None] | None = None
) -> tuple[Tensor, ClipReport]:
    """Takes one step of the optimizer. Returns the batch's mean loss, 0-d, and the report of clipping.

    check: whether to measure again, right before the step, that the gradients are the clipped ones. on_backward:
    called after backward, before clipping. Raises NonFiniteGradientError and ClipCheckError.
    """
    previous_hidden = list(state.hidden)
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
        state.hidden = previous_hidden  # those of the dropped step may be non-finite
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
    """Takes the remaining steps. Raises Diverged or Interrupted if the run ends early."""
    config, model = state.config, state.model
    first_steps = FirstSteps(model, config.log.first_steps)
    started, done = time.perf_counter(), state.step
    model.train()
    progress = Progress(done, config.steps, config.log.progress)
    for step, batch in enumerate(progress.over(batches(state)), start=done + 1):
        due = due_at(step, state)
        stop = run.stop  # a signal makes this step the last one
        weights = snapshot(model) if due.parameters or due.table else None
        norms = weight_norms(model) if due.diagnosis else None

        lr = state.lr_at(step)
        set_lr(state.optimizer, lr)
        try:
            on_backward = first_steps.before_clipping if due.table else None
            loss, report = take_step(state, batch, check=due.check, on_backward=on_backward)
        except NonFiniteGradientError as error:
            # Raised before the step, so that a non-finite weight is the cause and not the result.
            raise Diverged(f"{_nonfinite_weight(state) or error}, seen at step {step}") from None
        if due.log or stop is not None:
            _raise_deferred_nonfinite(state, step)
        state.step = step
        state.history.dropped += report.dropped
        run.heartbeat(step)

        if due.table and weights is not None:
            first_steps.after_step(step, weights)
        if due.log:
            change = update_norms(model, weights) if due.parameters and weights is not None else None
            speed = (step - done) / (time.perf_counter() - started)
            dropped = state.history.dropped
            logged = tracker.step(
                step, loss, report, lr=lr, steps_per_second=speed, dropped=dropped, update_norms=change
            )
            _check_logged_step(state, logged, report, norms)
            progress.show(logged, state.history)
        weights = None  # frees the snapshot's memory before an evaluation and before the next snapshot
        if due.evaluate:
            _log_pictures(state, tracker)
            _evaluate(state, run, tracker)
        # A checkpoint that a signal causes is not logged: the resumed run's log is that of an uninterrupted one.
        if due.save or (stop is not None and first_nonfinite(model) is None):
            checkpoint.save(run.folder, checkpoint_content(state, tracker), keep=config.checkpoint.keep)
        if stop is not None and step < config.steps:
            raise Interrupted(stop)


@dataclass(frozen=True)
class Due:
    """What is due at a step, besides the step itself.

    check: the optimizer is checked to be given the clipped gradients. log: the step is logged. parameters: each
    parameter's norms are logged, and the norm of the update, which needs a snapshot of the weights. table: the step is
    a row of the table of the first steps, which needs the snapshot too. diagnosis: every parameter's gradient is
    checked. evaluate, save: an evaluation and a checkpoint follow.
    """

    check: bool
    log: bool
    parameters: bool
    table: bool
    diagnosis: bool
    evaluate: bool
    save: bool


def due_at(step: int, state: TrainState) -> Due:
    """What is due at a step; at the last one, everything is.

    Steps with an evaluation or a checkpoint are logged, and so checked for divergence: a checkpoint of non-finite
    weights would replace the last good one.
    """
    config = state.config
    evaluate, save = (_is_due(step, every, config) for every in (config.evaluate_every, config.checkpoint.every))
    log_now = step == 1 or _is_due(step, config.log.every, config) or evaluate or save
    every = config.log.parameters_every
    return Due(
        check=step == 1 or _is_due(step, config.check_every, config),
        log=log_now,
        parameters=log_now and (step == 1 or step // every > state.last_parameter_log // every or evaluate or save),
        table=step <= config.log.first_steps,
        diagnosis=step == 1 or evaluate,
        evaluate=evaluate,
        save=save,
    )


def _is_due(step: int, every: int, config: Train) -> bool:
    return step % every == 0 or step == config.steps


def checkpoint_content(state: TrainState, tracker: Tracker) -> dict[str, object]:
    """The content of a checkpoint: the state, and the lengths of the logs, to which a resume truncates them."""
    return state.state_dict() | {"logs": tracker.log_lengths()}


def batches(state: TrainState) -> Iterator[Batch]:
    """The training batches of the remaining steps."""
    config, done = state.config, state.step
    if config.repeat_batches is None:
        remaining = state.data.batches(done)
    else:
        first = list(islice(state.data.batches(0), min(config.repeat_batches, config.steps)))
        remaining = islice(cycle(first), done % len(first), None)
    return islice(remaining, config.steps - done)


def _check_logged_step(state: TrainState, logged: LoggedStep, report: ClipReport, norms: Tensor | None) -> None:
    """Adds a logged step to the history, raises Diverged if the run has diverged, and warns of bad gradients.

    norms: the `weight_norms` before the step, if every parameter is to be checked.
    """
    state.history.add_step(logged.loss, logged.before, logged.clipped)
    if logged.weight_norm is not None:
        state.last_parameter_log = state.step
        if not math.isfinite(logged.weight_norm) and (bad := _nonfinite_weight(state)):
            raise Diverged(f"{bad}, seen at step {state.step}")
    if report.dropped:
        return
    state.monitor.update(state.step, logged.loss, logged.after, report)
    if logged.update_ratio is not None:
        state.monitor.check_update(state.step, logged.update_ratio, state.lr_factor(state.step))
    if norms is not None:
        before, after = split_norms(report.by_parameter())
        measured = measure(state.model, norms, before)
        state.monitor.check_parameters(state.step, measured, after, last=state.step == state.config.steps)
    state.divergence.update(state.step, logged.loss)


def _evaluate(state: TrainState, run: Run, tracker: Tracker) -> None:
    """Evaluates, logs the result, and saves the best checkpoint if the loss is the lowest so far."""
    history, step = state.history, state.step
    loss, metrics = evaluate(state)
    improved = history.add_evaluation(step, loss)
    tracker.evaluation(step, loss, metrics, history.best)
    tracker.flush()
    if improved:
        checkpoint.save_best(run.folder, checkpoint_content(state, tracker))
        run.update(objective=loss)
    shown = "".join(f"  {name} {value:.3f}" for name, value in metrics.items())
    log.info("step %6d  loss %s  validation %s%s", step, format_loss(history.last), format_loss(loss), shown)


def log_norms(state: TrainState, tracker: Tracker) -> None:
    """Writes the pictures of the norms, if they are configured."""
    clip, history = state.config.clip, state.history
    if not state.config.log.gradient_norms or not history.logged:
        return
    limits_all = (
        isinstance(clip, BlockPolicy)
        and clip.kind in ("limit", "decision")
        and (clip.scope, clip.norm_type) == ("model", 2)
        and not clip.include
        and not clip.exclude
    )
    tracker.gradient_norms(state.step, history.before, history.clipped / history.logged, limits_all=limits_all)


def _log_pictures(state: TrainState, tracker: Tracker) -> None:
    """Writes the pictures of the norms and the histograms of an evaluation, if they are configured."""
    log_norms(state, tracker)
    if state.config.log.histograms:
        named = dict(state.model.named_parameters())
        weights = {f"weight/{name}": parameter for name, parameter in named.items()}
        gradients = {f"gradient/{name}": parameter.grad for name, parameter in named.items()}
        tracker.histograms(state.step, weights | gradients)


def _raise_deferred_nonfinite(state: TrainState, step: int) -> None:
    """Raises Diverged for a non-finite gradient of this or an earlier step, which accelerators report with a delay."""
    try:
        state.clipper.raise_if_nonfinite()
    except NonFiniteGradientError as error:
        raise Diverged(f"{error}, seen at step {step}") from None


def _nonfinite_weight(state: TrainState) -> str | None:
    """The reason of divergence that names the first non-finite weight, or None."""
    name = first_nonfinite(state.model)
    return f"non-finite weight in {name}" if name else None
