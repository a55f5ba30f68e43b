"""Optimizers. Each option of conf/optimizer/ has a file of the same name here, with `build(config, groups)`."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from gradclip import UnmatchedPatternError
from runner.errors import UserError
from trainer.config.optimizer import Optimizer
from trainer.config.optimizer.fused import Fused
from trainer.config.options import builder

log = logging.getLogger(__name__)


def build(config: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The configured optimizer, with a separate parameter group without weight decay for those in `no_decay`.

    Raises UserError for a pattern of `no_decay` that matches no parameter.
    """
    if isinstance(config, Fused) and config.fused and (reason := _reason_against_fused(model.parameters())):
        log.warning("optimizer.fused: disabled, since torch's fused step on the CPU is wrong for %s", reason)
        config = replace(config, fused=False)
    groups = _parameter_groups(config.no_decay, dict(model.named_parameters()))
    optimizer: torch.optim.Optimizer = builder(__name__, "optimizer", config.name)(config, groups)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def match_strides(optimizer: torch.optim.Optimizer) -> None:
    """Gives the gradients that a fused step would misread the strides of their parameters.

    To be called after backward and before clipping. On the CPU, torch's fused steps silently read a gradient by its
    parameter's strides. Autograd gives both the same strides; a gradient that was set by hand or by a hook can have
    others.
    """
    for group in optimizer.param_groups:
        if group.get("fused"):
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None or parameter.device.type != "cpu" or gradient.layout != torch.strided:
                    continue
                if gradient.stride() != parameter.stride():
                    parameter.grad = torch.empty_like(parameter).copy_(gradient)


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restores what `state_dict` returned, except `fused`, which stays as built since it depends on the machine.

    Raises ValueError for a tensor whose shape is not its parameter's: torch accepts it, and a fused step then writes
    past its end.
    """
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [saved | ({"fused": built["fused"]} if "fused" in built else {}) for saved, built in pairs]
    optimizer.load_state_dict(state | {"param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            shape = () if name == "step" else parameter.shape
            if isinstance(value, Tensor) and value.shape != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)} and its parameter {tuple(parameter.shape)}")


def _parameter_groups(no_decay: Sequence[str], named: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """The parameters that are decayed, and those that match a pattern of `no_decay`; an empty group is dropped.

    Raises UserError for a pattern that matches no parameter.
    """
    matches = {pattern: set(filter(partial(fnmatchcase, pat=pattern), named)) for pattern in no_decay}
    if unmatched := [pattern for pattern, names in matches.items() if not names]:
        raise UserError(f"optimizer.{UnmatchedPatternError('no_decay', unmatched[0], list(named))}")
    undecayed_names = set().union(*matches.values())
    decayed = [parameter for name, parameter in named.items() if name not in undecayed_names]
    undecayed = [parameter for name, parameter in named.items() if name in undecayed_names]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _reason_against_fused(parameters: Iterable[Parameter]) -> str | None:
    """The kind of parameter for which torch's fused step on the CPU is silently wrong, or None if there is none."""
    for parameter in parameters:
        if parameter.device.type == "cpu":
            if parameter.dtype not in (torch.float32, torch.float64):
                return "half-precision parameters"  # the fused step skips elements
            if torch.empty_like(parameter, device="meta").stride() != parameter.stride():
                return (
                    "parameters that are strided views of other tensors"  # the fused step assumes contiguous elements
                )
    return None
