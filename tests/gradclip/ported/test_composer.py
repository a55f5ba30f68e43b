"""What composer's tests check of its algorithm GradientClipping: tests/algorithms/test_gradient_clipping.py.

Its adaptive clipping is that of the paper without the lower bound on the weights' norm. Its tests run four kinds of
models: a linear one, a convolutional one, a transformer and a BERT.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradclip import AGC, ClipByNorm, ClipByValue, Clipper, Policy
from tests.gradclip.ported.behaviours import behaviour, clip, leaf, norm, unit_norms, values


class Encoder(nn.Module):
    """Token embeddings, some layers of self-attention, and a classifier."""

    def __init__(self, layers: int, final_norm: bool):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(8) if final_norm else nn.Identity()
        self.classifier = nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.classifier(self.norm(hidden).mean(1))
        return logits


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Sequential(nn.Linear(6, 4), nn.Softmax(-1), nn.Linear(4, 2)), torch.randn(5, 6)),
    "convolutions": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 2)),
        torch.randn(5, 3, 8, 8),
    ),
    "transformer": lambda: (Encoder(1, final_norm=False), torch.randint(11, (5, 7))),
    "deeper transformer": lambda: (Encoder(2, final_norm=True), torch.randint(11, (5, 7))),
}
OPTIONS = {"adaptive": "agc", "norm": "norm", "value": "value"}


def with_gradients(name: str) -> nn.Module:
    """A model after backward of a large loss."""
    torch.manual_seed(0)
    model, batch = MODELS[name]()
    (100 * nn.functional.cross_entropy(model(batch), torch.tensor([0, 1, 0, 1, 1]))).backward()
    return model


def obeys(policy: Policy, weight: Tensor, gradient: Tensor) -> bool:
    """Whether a gradient is within the policy's limit; for the norm, whether it alone is."""
    if isinstance(policy, AGC):
        limits = policy.ratio * np.maximum(unit_norms(weight.detach().numpy()), policy.eps)
        return bool((unit_norms(gradient.numpy()) <= limits * (1 + 1e-6)).all())
    return norm(gradient.numpy(), np.inf if isinstance(policy, ClipByValue) else 2.0) <= 0.01 * (1 + 1e-6)


@behaviour("composer", "1", "test_gradient_clipping_functional", "adaptive selects clipping by the weights")
@behaviour("composer", "2", "test_gradient_clipping_functional", "norm selects torch's clip_grad_norm_")
@behaviour("composer", "3", "test_gradient_clipping_functional", "value selects torch's clip_grad_value_")
@pytest.mark.parametrize("kind", OPTIONS)
def test_a_kind_of_clipping_is_selected_by_its_name(kind: str) -> None:
    """torch's functions are computed by their definitions in NumPy."""
    option = Policy.options[OPTIONS[kind]]
    parameter = leaf([[30.0, 40.0], [0.0, 0.5]], [[3.0, 4.0], [6.0, 8.0]])
    before, weights = values(parameter), parameter.detach().double().numpy()
    clip(option(ratio=0.1) if kind == "adaptive" else option(max=0.1), parameter)
    expected = {
        "adaptive": before.reshape(2, 2) * np.minimum(1, 0.1 * unit_norms(weights) / unit_norms(before.reshape(2, 2))),
        "norm": before * 0.1 / norm(before),
        "value": np.clip(before, -0.1, 0.1),
    }[kind]
    assert values(parameter) == pytest.approx(np.ravel(expected), rel=1e-6)


@behaviour(
    "composer",
    "4",
    "test_gradient_clipping_algorithm",
    "the function is called once in every step, for each model",
    differs="the training loop calls clip() between backward and the optimizer's step",
)
@behaviour("composer", "7", "test_apply_agc_does_not_error", "adaptive clipping takes each model's weights and biases")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", [AGC(ratio=0.01), ClipByNorm(max=0.01), ClipByValue(max=0.01)], ids=OPTIONS)
def test_every_kind_with_every_model(policy: Policy, name: str) -> None:
    model = with_gradients(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = Clipper(model, policy, optimizer=optimizer)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    assert not all(obeys(policy, p, p.grad) for p in model.parameters())
    report = clipper.clip()
    clipper.check()
    optimizer.step()
    assert report.fraction > 0
    if isinstance(policy, ClipByNorm):
        assert norm(values(*model.parameters())) == pytest.approx(0.01, rel=1e-6)
    for weight, parameter in zip(weights, model.parameters(), strict=True):
        assert obeys(policy, weight, parameter.grad)
        assert not torch.equal(weight, parameter) or not parameter.grad.any()


@behaviour("composer", "6", "test_apply_agc", "a gradient becomes itself times its units' coefficients")
@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_times_its_coefficients(name: str) -> None:
    model = with_gradients(name)
    before = {n: p.grad.double().numpy() for n, p in model.named_parameters()}
    Clipper(model, AGC(ratio=0.01, eps=1e-3)).clip()
    for n, parameter in model.named_parameters():
        limits = 0.01 * np.maximum(unit_norms(parameter.detach().numpy()), 1e-3)
        norms = unit_norms(before[n])
        coefficients = np.minimum(1, np.divide(limits, norms, where=norms > 0, out=np.ones_like(norms)))
        np.testing.assert_allclose(parameter.grad.numpy(), before[n] * coefficients, rtol=2e-6, atol=1e-12)


KERNEL = [[[3.0, 8.0], [2.0, 2.0]], [[1.0, 3.0], [3.0, 9.0]]]  # units of norm 9 and 10
STEEP = [[[1.0, 1.0], [3.0, 5.0]], [[1.0, 1.0], [1.0, 1.0]]]  # units of norm 6 and 2
LIMITED = [[[0.5, 0.5], [1.5, 2.5]], [[1.0, 1.0], [1.0, 1.0]]]


def with_a_fourth(kernel: list[list[list[float]]]) -> Any:
    """The kernel with a fourth dimension of size 1."""
    return np.array(kernel)[..., None].tolist()


@behaviour("composer", "8", "test_get_clipped_gradients_1D", "a vector is one unit")
@behaviour("composer", "10", "test_get_clipped_gradients_2D", "the units of a matrix are its rows")
@behaviour("composer", "11", "test_get_clipped_gradients_3D", "a unit extends over all dimensions but the first")
@behaviour("composer", "12", "test_get_clipped_gradients_4D", "the same with a fourth dimension of size 1")
@pytest.mark.parametrize(
    ("weights", "gradient", "ratio", "expected"),
    [
        ([3.0, 4.0], [7.0, 24.0], 0.5, [0.7, 2.4]),
        ([[3.0, 4.0], [9.0, 40.0]], [[7.0, 24.0], [5.0, 12.0]], 0.5, [[0.7, 2.4], [5.0, 12.0]]),
        (KERNEL, STEEP, 1 / 3, LIMITED),
        (with_a_fourth(KERNEL), with_a_fourth(STEEP), 1 / 3, with_a_fourth(LIMITED)),
    ],
    ids=["1D", "2D", "3D", "4D"],
)
def test_units(weights: Any, gradient: Any, ratio: float, expected: Any) -> None:
    parameter = leaf(gradient, weights)
    clip(AGC(ratio=ratio), parameter)
    torch.testing.assert_close(parameter.grad, torch.tensor(expected), rtol=2e-7, atol=0)


@behaviour(
    "composer",
    "9",
    "test_get_clipped_gradients_1D_with_zeros",
    "zero weights make the gradient 0; no nan",
    differs="weights below eps count as eps, as in the paper, so that weights of 0 can learn",
)
@pytest.mark.parametrize(
    ("weights", "gradient", "expected"),
    [
        ([0.0, 0.0], [1.0, 1.0], [1e-4 * 1e-3 / 2**0.5] * 2),
        ([1.0, 1.0], [0.0, 0.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_zeros(weights: list[float], gradient: list[float], expected: list[float]) -> None:
    parameter = leaf(gradient, weights)
    clip(AGC(ratio=1e-4), parameter)
    assert values(parameter) == pytest.approx(expected, rel=1e-6, abs=0)
