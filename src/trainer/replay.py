"""The last steps before a divergence once more, with more detail than a run logs."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from runner.report.post_mortem import Evidence, Step, is_jump
from runner.report.settings import settings_of
from runner.runs import checkpoint
from runner.runs.run import Diverged
from trainer.config import Train
from trainer.data import Batch
from trainer.device import autocast
from trainer.loop import batches, due_at, forward_backward, take_step
from trainer.models import HiddenState
from trainer.monitor.marks import measure, vanishes, weight_norms
from trainer.monitor.update_norm import snapshot, update_norms
from trainer.optimizers import set_lr
from trainer.state import TrainState, initial_state
from trainer.weights import first_nonfinite


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
    if state.config.clip.nonfinite == "error":
        state.config.clip.nonfinite = "keep"  # the gradients of the last step are examined, on accelerators too
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
    model, hidden = state.model, list(state.hidden)
    lr = state.lr_at(number)
    set_lr(state.optimizer, lr)
    sizes, weights = weight_norms(model), snapshot(model)
    loss = batch_loss(state, batch)
    if previous is not None and is_jump(loss, [step.loss for step in evidence.steps]):
        evidence.jump = number, batch_loss(state, previous)
    _, report = take_step(state, batch, check=False)
    before, after, fraction = (float(value) for value in (report.before, report.after, report.fraction))
    norms = {name: norm for name, (norm, _) in report.by_parameter().items()}
    evidence.parameters[number] = norms
    if number == 1:
        evidence.vanishing = _vanishing(state, sizes, norms)
    failed = not report.dropped and not (math.isfinite(before) and math.isfinite(loss))
    if failed:
        _restore(model, weights)
        _examine_failure(state, number, batch, hidden, norms, evidence)
    update = None if failed else float(update_norms(model, weights)[1])
    limit, weight = float(report.limits.median()), float(sizes.square().sum().sqrt())
    evidence.steps.append(Step(number, loss, before, after, limit, fraction > 0, lr, update, weight))
    state.step = number
    return failed or (not report.dropped and _diverges(state, number, loss))


def _restore(model: nn.Module, weights: Sequence[Tensor]) -> None:
    """Undoes a step, by the weights before it."""
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)


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


def _examine_failure(
    state: TrainState, number: int, batch: Batch, hidden: list[HiddenState], norms: dict[str, float], evidence: Evidence
) -> None:
    """Adds what a step with a non-finite loss or gradient shows, whose weights are those before it.

    Which gradients are non-finite, whether the weights or the input are, and whether the gradients are finite at
    float32. Ends the use of the state.
    """
    evidence.nonfinite = [name for name, norm in norms.items() if not math.isfinite(norm)]
    if (name := first_nonfinite(state.model)) is not None:
        evidence.bad_weights = number, name
    elif not _is_finite([batch.inputs, batch.targets]):
        evidence.bad_input = number
    elif state.config.device.precision != "float32":
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
    measured = measure(state.model, sizes, norms)
    judged = [
        name for name, parameter in state.model.named_parameters() if parameter.dim() > 1 and parameter.requires_grad
    ]
    return sum(vanishes(measured[name]) for name in judged) / len(judged) if judged else 0.0
