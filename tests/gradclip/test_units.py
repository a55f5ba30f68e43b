"""The units of adaptive gradient clipping; autograd, not shapes, finds the weights of each output."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gradclip import AGC, Chain, ClipByNorm, Clipper

LAYERS = {
    "linear": (nn.Linear(5, 4), (3, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3), (2, 4, 8)),
    "conv2d, grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "conv2d, depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3), (2, 4, 8)),
    "transposed 2d, square": (nn.ConvTranspose2d(4, 4, 3), (2, 4, 6, 6)),
    "transposed 2d, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "transposed 2d, depthwise": (nn.ConvTranspose2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2), (2, 2, 4, 4, 4)),
}


def outputs_of(layer: nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    """For each output channel, a mask of the weight's elements on which it depends."""
    layer = copy.deepcopy(layer).double()
    found = []
    outputs = layer(torch.rand(shape, dtype=torch.float64) + 0.5)
    for channel in range(outputs.shape[1]):
        (gradient,) = torch.autograd.grad(outputs[:, channel].sum(), layer.weight, retain_graph=True)
        found.append(gradient != 0)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_unit_is_the_weights_of_one_output(name: str, dtype: torch.dtype) -> None:
    layer, shape = LAYERS[name]
    masks = outputs_of(layer, shape)
    layer = copy.deepcopy(layer).to(dtype)
    torch.manual_seed(1)
    for parameter in layer.parameters():
        parameter.grad = torch.randn(parameter.shape).to(dtype)
    gradient, weight = layer.weight.grad.double().clone(), layer.weight.detach().double()
    Clipper(layer, AGC(ratio=0.1, include=["weight"])).clip()
    expected = gradient.numpy().copy()
    for mask in masks:
        limit = 0.1 * max(np.linalg.norm(weight[mask]), 1e-3)
        assert np.linalg.norm(gradient[mask]) > limit
        expected[mask] *= limit / np.linalg.norm(gradient[mask])
    rounding = 1e-6 if dtype != torch.bfloat16 else 8e-3
    np.testing.assert_allclose(layer.weight.grad.double().numpy(), expected, rtol=rounding)


def test_the_units_of_a_transposed_convolution_are_reported_by_output() -> None:
    layer = nn.ConvTranspose2d(2, 6, 1, groups=2, bias=False)
    layer.weight.grad = torch.arange(1.0, 7.0).view(2, 3, 1, 1)  # one element for each output
    report = Clipper(layer, ClipByNorm(max=2.5, scope="unit")).clip()
    assert report.norms.tolist() == [1, 2, 3, 4, 5, 6]
    assert layer.weight.grad.flatten().tolist() == [1, 2, 2.5, 2.5, 2.5, 2.5]


def test_units_under_a_parametrization() -> None:
    layer = parametrizations.weight_norm(nn.ConvTranspose1d(3, 5, 2, bias=False), dim=1)
    direction = layer.parametrizations.weight.original1
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    report = Clipper(layer, ClipByNorm(max=1.0, scope="unit", include=["*original1"])).clip()
    assert len(report.norms) == 5
    assert direction.grad[:, 0].norm().item() == pytest.approx(1.0)


def clipped(model: nn.Module, policy: AGC) -> dict[str, bool]:
    """Clips huge gradients, and returns by name whether each one was changed."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0) if parameter.requires_grad else None
    Clipper(model, policy).clip()
    return {n: bool((p.grad != 100.0).all()) for n, p in model.named_parameters() if p.grad is not None}


def test_only_excluded_parameters_are_skipped() -> None:
    body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied = nn.ModuleDict({"embedding": nn.Embedding(4, 4), "head": nn.Linear(4, 4, bias=False)})
    tied["head"].weight = tied["embedding"].weight
    frozen = copy.deepcopy(body)
    frozen[1].requires_grad_(False)
    assert all(clipped(body, AGC()).values())
    assert clipped(body, AGC(exclude=["1.*"])) == {"0.weight": True, "0.bias": True, "1.weight": False, "1.bias": False}
    assert clipped(tied, AGC()) == {"embedding.weight": True}
    assert clipped(frozen, AGC()) == {"0.weight": True, "0.bias": True}


def test_low_rank_adapters_are_clipped_by_their_own_outputs() -> None:
    """The adapters of a frozen layer: the outputs of `down` are the ranks; `up` starts at 0, which counts as eps."""
    model = nn.ModuleDict(
        {"base": nn.Linear(6, 5), "down": nn.Linear(6, 2, bias=False), "up": nn.Linear(2, 5, bias=False)}
    )
    model["base"].requires_grad_(False)
    nn.init.zeros_(model["up"].weight)
    for name in ("down", "up"):
        model[name].weight.grad = torch.ones_like(model[name].weight)
    report = Clipper(model, AGC(ratio=0.1)).clip()
    limits = [0.1 * np.linalg.norm(row) for row in model["down"].weight.detach().double().numpy()] + [1e-4] * 5
    assert report.limits.tolist()[6:] == pytest.approx(limits, rel=1e-6)  # after the 5 rows and the bias of base
    assert model["up"].weight.grad.norm(dim=1).tolist() == pytest.approx([1e-4] * 5, rel=1e-5)


def test_every_link_of_a_chain_handles_transposed_convolutions() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    policy = Chain(links={"a": ClipByNorm(max=9.0, scope="unit"), "b": ClipByNorm(max=1.0, scope="unit")})
    clipper = Clipper(layer, policy)
    assert clipper.clip().norms.shape == (14,)
    clipper.check()
    assert layer.weight.grad.transpose(0, 1).flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * 6)
