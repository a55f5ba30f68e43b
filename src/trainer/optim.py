"""The optimizer, its parameter groups, and the learning rate of every step."""

import inspect
import logging
import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from trainer import config as schema

log = logging.getLogger(__name__)


def build(config: schema.Optimizer, model: nn.Module) -> Optimizer:
    """torch's own optimizer, with a group of its own for parameters that are not decayed."""
    groups = _groups(config, list(model.named_parameters()))
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if isinstance(config, schema.Fused):
        common["fused"] = config.fused and _fused_is_safe(model.parameters())
    match config:
        case schema.SGD():
            return uncompiled(torch.optim.SGD, groups, momentum=config.momentum, nesterov=config.nesterov, **common)
        case schema.Adam():
            return uncompiled(torch.optim.Adam, groups, betas=(config.beta1, config.beta2), eps=config.eps, **common)
        case schema.AdamW():
            return uncompiled(torch.optim.AdamW, groups, betas=(config.beta1, config.beta2), eps=config.eps, **common)
        case schema.RMSprop():
            own = {"alpha": config.alpha, "eps": config.eps, "momentum": config.momentum}
            return uncompiled(torch.optim.RMSprop, groups, **own, **common)
    raise NotImplementedError(f"optimizer={config.name} has a schema, but nothing in {__name__} builds it")


def uncompiled(kind: type[Optimizer], groups: list[dict[str, Any]], **values: Any) -> Optimizer:
    """torch's own optimizer, whose methods are called below their marks for torch.compile.

    The first mark that is met imports the compiler, torch._dynamo, to tell it to leave the optimizer alone: most of
    a second at every start. Nothing is compiled here. A fork that compiles the optimizer's step, and not its
    model alone, writes `kind(groups, **values)`.
    """
    optimizer = kind.__new__(kind)
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        setattr(optimizer, name, MethodType(inspect.unwrap(getattr(kind, name)), optimizer))
    kind.__init__(optimizer, groups, **values)  # it adds the groups
    step = torch.no_grad()(inspect.unwrap(kind.step))  # its mark turns autograd off too
    optimizer.step = MethodType(kind.profile_hook_step(step), optimizer)  # type: ignore[method-assign]
    return optimizer


def set_rate(optimizer: Optimizer, config: schema.Train, step: int) -> float:
    """Sets the learning rate of a step (1 is the first) in every group, and returns it.

    A function of the step alone: nothing to save, and nothing that a step left out could put out of line.
    """
    rate = config.optimizer.lr * _share(config.schedule, step, config.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def load(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Takes over a saved state; the step stays fused only where it was, and where it is safe here too.

    torch takes the flag from the saved groups alone, and leaves the one for loss scalers as it was built.
    Raises ValueError for a state of another shape than its parameter's: torch takes it, and a fused step
    then writes past its end.
    """
    safe = [bool(group.get("fused")) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            shape = () if name == "step" else parameter.shape
            if isinstance(value, Tensor) and value.shape != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)} and its parameter {tuple(parameter.shape)}")
    for group, here in zip(optimizer.param_groups, safe, strict=True):
        if "fused" in group:
            group["fused"] = bool(group["fused"]) and here
    if not all(group.get("fused") for group in optimizer.param_groups):
        _treat_as_not_fused(optimizer)


def mend_fused(optimizer: Optimizer) -> None:
    """Turns the fused step off where a gradient does not lie in memory as its parameter does.

    torch's fused steps on the CPU ignore the difference and give wrong results. Autograd keeps the
    two alike, so this meets only gradients that were set by hand.
    """
    if not any(group.get("fused") for group in optimizer.param_groups):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                log.warning("optimizer.fused: off, since a gradient lies otherwise in memory than its parameter")
                for each in optimizer.param_groups:
                    each["fused"] = False
                _treat_as_not_fused(optimizer)
                return


def _treat_as_not_fused(optimizer: Optimizer) -> None:
    """Or a loss scaler would leave the unscaling to a fused step that is none."""
    if hasattr(optimizer, "_step_supports_amp_scaling"):
        optimizer._step_supports_amp_scaling = False


def _groups(config: schema.Optimizer, named: list[tuple[str, Parameter]]) -> list[dict[str, Any]]:
    def kept(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in config.no_decay)

    decayed = [parameter for name, parameter in named if not kept(name)]
    others = [parameter for name, parameter in named if kept(name)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _fused_is_safe(parameters: Iterable[Parameter]) -> bool:
    """On the CPU torch's fused steps skip elements of half-precision parameters without a word."""
    safe = all(p.device.type != "cpu" or p.dtype in (torch.float32, torch.float64) for p in parameters)
    if not safe:
        log.warning("optimizer.fused: off, since it is wrong for half-precision parameters on the CPU")
    return safe


def _share(config: schema.Schedule, step: int, steps: int) -> float:
    """The learning rate of a step as a share of the configured one."""
    if step <= config.warmup:
        return step / (config.warmup + 1)
    if not isinstance(config, schema.Decay):
        return 1.0
    done = (step - config.warmup - 1) / max(steps - config.warmup - 1, 1)
    left = (1 + math.cos(math.pi * done)) / 2 if isinstance(config, schema.Cosine) else 1 - done
    return config.final + (1 - config.final) * left
