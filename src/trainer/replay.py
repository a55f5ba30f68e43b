"""The last steps before a divergence once more, with more detail than a run logs."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from gradclip import NonFiniteGradientError
from runner.report.post_mortem import Evidence, Step, is_jump
from runner.report.settings import settings_of
from runner.runs import checkpoint
from runner.runs.run import Diverged
from trainer.config import Train
from trainer.data import Batch
from trainer.device import autocast
from trainer.loop import batches, due_at, forward_backward, take_step
from trainer.models import HiddenState
from trainer.monitor.diagnosis import VANISHING, mark_parameters, measure, weight_norms
from trainer.monitor.update_norm import snapshot, update_norms
from trainer.optimizers import set_lr
from trainer.state import TrainState, build
from trainer.weights import first_nonfinite, load_weights


def initial_state(config: Train) -> TrainState:
    """The state of a run before its first step."""
    state = build(config)
    if config.init_from is not None:
        load_weights(state.model, Path(config.init_from))
    state.model.train()
    return state


def replay(config: Train, folder: Path, completed: int, keep_going: Callable[[], bool]) -> Evidence | None:
    """Repeats a run from its last checkpoint, or from its start, to the step at which it diverged.

    completed: the steps that the run completed. keep_going: called before every step; false ends the replay. Returns
    None if it was ended, or if there are more than `post_mortem.replay_steps` steps to repeat.
    """
    path, content = checkpoint.load_newest(folder) or (None, {"step": 0})
    if completed + 1 - content["step"] > config.post_mortem.replay_steps:
        return None
    state = initial_state(deepcopy(config))
    if path is not None:
        state.load_state_dict(content, path)
    evidence = Evidence([], settings_of(asdict(config)), replayed=True)
    previous: Batch | None = None
    for number, batch in enumerate(batches(state), start=state.step + 1):
        if number > completed + 1:
            break
        if not keep_going():
            return None
        if _replay_step(state, number, batch, previous, evidence):
            break
        previous = batch
    return evidence


def _replay_step(state: TrainState, number: int, batch: Batch, previous: Batch | None, evidence: Evidence) -> bool:
    """Takes one step and adds it to the evidence. Returns whether the run diverges at it."""
    model = state.model
    lr = state.config.optimizer.lr * state.lr_factor(number)
    set_lr(state.optimizer, lr)
    sizes, weights = weight_norms(model), snapshot(model)
    bad_weight = first_nonfinite(model)
    loss = batch_loss(state, batch)
    if previous is not None and is_jump(loss, [step.loss for step in evidence.steps]):
        evidence.jump = number, batch_loss(state, previous)
    hidden = list(state.hidden)
    try:
        _, report = take_step(state, batch, check=False)
    except NonFiniteGradientError:
        evidence.steps.append(Step(number, loss, math.nan, math.nan, math.nan, False, lr, None, _total(sizes)))
        _examine_failure(state, number, batch, bad_weight, evidence)
        if bad_weight is None and evidence.bad_input is None:
            _check_precision(state, number, batch, hidden, evidence)
        return True
    update = float(update_norms(model, weights)[1])
    before, limit = float(report.before), float(report.limits.median())
    evidence.steps.append(Step(number, loss, before, float(report.after), limit, float(report.fraction) > 0, lr, update,
                               _total(sizes)))  # fmt: skip
    norms = {name: norm for name, (norm, _) in report.by_parameter().items()}
    if math.isfinite(before):
        evidence.parameters = norms
    if not (math.isfinite(before) and math.isfinite(loss)):
        _examine_failure(state, number, batch, bad_weight, evidence)
        return True
    if number == 1:
        evidence.vanishing = _vanishing(state, sizes, norms)
    state.step = number
    return not report.dropped and _diverges(state, number, loss)


def _diverges(state: TrainState, number: int, loss: float) -> bool:
    """Whether the run's own rule, which judges the logged steps, ends it at this one."""
    if not due_at(number, state).log:
        return False
    try:
        state.divergence.update(number, loss)
    except Diverged:
        return True
    return False


def batch_loss(state: TrainState, batch: Batch) -> float:
    """The loss of a batch with the current weights; the state and the random numbers of the run stay as they are."""
    losses = []
    with torch.no_grad(), torch.random.fork_rng():
        for index, (inputs, targets) in enumerate(state.micro_batches(batch)):
            with autocast(state.config.device, state.device):
                outputs, _ = state.model(inputs, state.hidden[index] if batch.continues else None)
                loss = state.data.loss(outputs, targets)
            losses.append(float(loss) * len(inputs) / len(batch.inputs))
    return math.fsum(losses)


def _examine_failure(state: TrainState, number: int, batch: Batch, bad_weight: str | None, evidence: Evidence) -> None:
    """Adds what a step with a non-finite loss or gradient shows: which gradients, the weights before it, the input."""
    gradients = {name: parameter.grad for name, parameter in state.model.named_parameters()}
    evidence.nonfinite = [
        name for name, gradient in gradients.items() if gradient is not None and not _is_finite([gradient])
    ]
    if bad_weight is not None:
        evidence.bad_weights = number, bad_weight
    if not _is_finite([batch.inputs, batch.targets]):
        evidence.bad_input = number


def _check_precision(
    state: TrainState, number: int, batch: Batch, hidden: list[HiddenState], evidence: Evidence
) -> None:
    """Adds whether the gradients of a step that was not taken are finite at float32. Ends the use of the state."""
    if state.config.device.precision == "float32":
        return
    state.config = replace(state.config, device=replace(state.config.device, precision="float32"))
    state.hidden = hidden
    state.optimizer.zero_grad()
    forward_backward(state, batch)
    if _is_finite([parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]):
        evidence.overflow = number


def _is_finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def _vanishing(state: TrainState, sizes: Tensor, norms: dict[str, float]) -> float:
    """The share of the weights, without biases, whose gradients vanish before the first step."""
    marks = mark_parameters(measure(state.model, sizes, norms), state.config.diagnosis, early=True)
    judged = [
        name for name, parameter in state.model.named_parameters() if parameter.dim() > 1 and parameter.requires_grad
    ]
    return sum(marks.get(name) == VANISHING for name in judged) / len(judged) if judged else 0.0


def _total(norms: Tensor) -> float:
    return float(norms.square().sum().sqrt())
