"""Evaluation: the loss and the metrics on the held-out data, and a sample of the model's output."""

import torch
from torch import Tensor

from gradclip.norms import wide_dtype
from runner.printable import printable
from trainer.device import autocast
from trainer.models import HiddenState
from trainer.state import TrainState


@torch.no_grad()
def evaluate(state: TrainState) -> tuple[float, dict[str, float]]:
    """The mean loss and the metrics over all held-out data, in batches no larger than a micro-batch."""
    state.model.eval()
    sums: dict[str, Tensor] = {}
    hidden: dict[int, HiddenState] = {}  # by micro-batch
    count, wide = 0, wide_dtype(state.device)
    for batch in state.data.validation():
        for index, (inputs, targets) in enumerate(state.micro_batches(batch)):
            with autocast(state.config.device, state.device):
                outputs, hidden[index] = state.model(inputs, hidden[index] if batch.continues else None)
                means = {"loss": state.data.loss(outputs, targets), **state.data.metrics(outputs, targets)}
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + mean.to(wide) * targets.numel()
            count += targets.numel()
    state.model.train()
    metrics = {name: total.item() / count for name, total in sums.items()}
    return metrics.pop("loss"), metrics


@torch.no_grad()
def sample(state: TrainState) -> str | None:
    """Text that the model generated, with control characters escaped, or None if its data set does not support it.

    Unescaped, a generated escape sequence could change the terminal's colours or overwrite what it shows.
    """
    state.model.eval()
    text = state.data.sample(state.model, state.device)
    return None if text is None else printable(text)
