"""The state of a training run: built from its configuration, saved and restored."""

import copy
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradclip import Clipper, InvalidField, UnmatchedPatternError
from runner.config import flatten, incompatible_keys
from runner.errors import UserError
from trainer import data, models, optimizers, schedules
from trainer.config import Train
from trainer.data import Batch, Dataset
from trainer.device import autocast, loss_scaler, prepare, send
from trainer.history import History
from trainer.models import HiddenState, clone_state
from trainer.monitor.diagnosis import GradientMonitor
from trainer.monitor.divergence import DivergenceDetector
from trainer.randomness import rng_state, seed_everything, set_rng_state
from trainer.weights import check_fit, load_weights

log = logging.getLogger(__name__)


@dataclass
class TrainState:
    """Everything that a run consists of, built once from its configuration, and its progress.

    lr_factor: the learning rate of a step (1 is the first) as a share of optimizer.lr. hidden: the hidden state
    of each micro-batch, carried from window to window. step: the last completed one. last_parameter_log: the last
    step at which each parameter's norms were logged.
    """

    config: Train
    device: torch.device
    data: Dataset
    model: nn.Module
    optimizer: Optimizer
    lr_factor: Callable[[int], float]
    clipper: Clipper
    scaler: torch.amp.GradScaler
    hidden: list[HiddenState]
    divergence: DivergenceDetector
    monitor: GradientMonitor
    history: History = field(default_factory=History)
    step: int = 0
    last_parameter_log: int = 0

    def lr_at(self, step: int) -> float:
        """The learning rate of a step; 1 is the first."""
        return self.config.optimizer.lr * self.lr_factor(step)

    def micro_batches(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """The inputs and targets of a batch on the device, split along the rows, never along time.

        A training batch has `config.micro_batches` parts; no part of a larger batch has more rows than one of those.
        """
        parts = math.ceil(len(batch.inputs) * self.config.micro_batches / self.config.data.batch_size)
        inputs, targets = (send(tensor, self.device).tensor_split(parts) for tensor in batch[:2])
        return list(zip(inputs, targets, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors, plain values and containers of them."""
        return {
            "step": self.step,
            "last_parameter_log": self.last_parameter_log,
            "best": self.history.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "clipper": self.clipper.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hidden": [clone_state(state, torch.device("cpu")) for state in self.hidden],
            "divergence": self.divergence.state_dict(),
            "monitor": self.monitor.state_dict(),
            "history": self.history.state_dict(),
            "random": rng_state(),
            "data": self.data.fingerprint,
            "config": flatten(self.config),
            "numerics": _numerics_fingerprint(self.device),
        }

    def load_state_dict(self, content: dict[str, Any], path: Path) -> None:
        """Restores what `state_dict` returned. path: the checkpoint that it comes from, for error messages.

        Raises UserError if it is not the state of a run with this configuration and data.
        """
        try:
            self._check(content, path)
            self.model.load_state_dict(content["model"])
            optimizers.load_state(self.optimizer, content["optimizer"])
            for name in ("clipper", "scaler", "divergence", "monitor", "history"):
                getattr(self, name).load_state_dict(content[name])
            self.hidden = [clone_state(state, self.device) for state in content["hidden"]]
            self.step, self.last_parameter_log = content["step"], content["last_parameter_log"]
            set_rng_state(content["random"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{path}: not a checkpoint of a run with this configuration ({reason})") from error

    def check_data(self, content: dict[str, Any], path: Path) -> None:
        """Raises UserError if a checkpoint is that of a run with other data. The data's path may differ."""
        if (saved := str(content.get("data"))) != (now := self.data.fingerprint):
            raise UserError(f"{path}: the data has changed: its hash was {saved[:12]}… and is {now[:12]}…")

    def _check(self, content: dict[str, Any], path: Path) -> None:
        """Raises UserError if a checkpoint is that of another run; warns if results can differ by rounding."""
        config, hidden_states = self.config, len(content["hidden"])
        if names := incompatible_keys(content["config"], config):
            raise UserError(f"{path}: saved with another {', '.join(names)} than the run's config.yaml says")
        self.check_data(content, path)
        # A checkpoint of the last step is accepted: the run was killed before it could record that it is finished.
        if content["step"] >= config.steps and not content["step"] == config.steps == content["config"]["steps"]:
            raise UserError(f"steps={config.steps}: {path} has completed {content['step']} already")
        if content["numerics"] != (now := _numerics_fingerprint(self.device)):
            log.warning("saved with %s; resumed with %s: results can differ by rounding", content["numerics"], now)
        if hidden_states != config.micro_batches:
            raise UserError(f"{path}: has {hidden_states} hidden states for micro_batches={config.micro_batches}")
        check_fit(self.model, content["model"], path)


def build(config: Train) -> TrainState:
    """The initial state of a run, the same for the same configuration and seed.

    Raises UserError for errors in the configuration that only building can detect: an unavailable device, data that
    cannot be read, a model that does not fit into memory, a precision that this CPU does not support, a pattern that
    matches no parameter.
    """
    device = prepare(config.device)
    seed_everything(config.seed)
    dataset = data.build(config.data, config.seed)
    seed_everything(
        config.seed
    )  # again: importing a library of the data set may draw random numbers (scikit-learn does)
    model = _build_model(config, dataset, device)
    _check_precision(config, device, dataset, model)
    optimizer = optimizers.build(config.optimizer, model)
    return TrainState(
        config=config,
        device=device,
        data=dataset,
        model=model,
        optimizer=optimizer,
        lr_factor=schedules.build(config.schedule, config.steps),
        clipper=_build_clipper(config, model, optimizer),
        scaler=loss_scaler(config.device, device),
        hidden=[None] * config.micro_batches,
        divergence=DivergenceDetector(config.divergence),
        monitor=GradientMonitor(config),
    )


def initialize(state: TrainState) -> None:
    """Loads the weights that a new run starts from, if `init_from` is set. Raises UserError if they do not fit."""
    if (path := state.config.init_from) is None:
        return
    try:
        load_weights(state.model, Path(path))
    except UserError as error:
        raise UserError(f"init_from={path}: {str(error).removeprefix(f'{path}: ')}") from error


def initial_state(config: Train) -> TrainState:
    """The state of a new run right before its first step."""
    state = build(config)
    initialize(state)
    state.model.train()
    return state


def _build_model(config: Train, dataset: Dataset, device: torch.device) -> nn.Module:
    try:
        model = models.build(config.model, dataset.inputs, dataset.outputs, config.data.kind)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        model = model.to(device)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate" not in str(error):
            raise
        raise UserError(f"model={config.model.name}: its weights do not fit into the memory of {device}") from error
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if device.type == "cpu" and 2 * weights > memory:
        raise UserError(
            f"model={config.model.name}: its weights and their gradients need {2 * weights / 1e9:,.0f} GB, "
            f"and this machine has {memory / 1e9:,.0f}"
        )
    return model


def _check_precision(config: Train, device: torch.device, dataset: Dataset, model: nn.Module) -> None:
    """Raises UserError if this CPU lacks an operation at the configured precision, as many lack the LSTM at float16.

    A copy of the model takes one micro-batch forward and backward, since torch offers no other way to find out.
    """
    if config.device.precision == "float32" or device.type != "cpu":
        return
    trial, batch = copy.deepcopy(model), next(dataset.batches(0))
    inputs, targets = (tensor.tensor_split(config.micro_batches)[0] for tensor in batch[:2])
    try:
        with torch.random.fork_rng(devices=[]), autocast(config.device, device):
            outputs, _ = trial(inputs, None)
            loss = dataset.loss(outputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        precision = config.device.precision
        raise UserError(f"device.precision={precision}: model={config.model.name} needs an operation that torch "
                        f"does not have for it on this CPU ({reason})") from error  # fmt: skip


def _build_clipper(config: Train, model: nn.Module, optimizer: Optimizer) -> Clipper:
    try:
        return Clipper(model, config.clip, optimizer=optimizer)
    except (UnmatchedPatternError, InvalidField) as error:
        raise UserError(f"clip.{error}") from None


def _numerics_fingerprint(device: torch.device) -> str:
    """What determines rounding, besides the configuration: torch's version, the device, the number of threads."""
    if device.type == "cuda":
        return f"torch {torch.__version__} on {torch.cuda.get_device_name(device)}"
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}"
    return f"torch {torch.__version__} on {device.type}, {cpu}"
