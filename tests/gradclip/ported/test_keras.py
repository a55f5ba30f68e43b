"""What Keras's tests check of the optimizer arguments clipnorm, clipvalue and global_clipnorm.

Tests 1 to 8 are in keras/src/optimizers/optimizer_test.py, 9 and 10 in the test file of every optimizer, 11 and 12 in
backend/tensorflow/optimizer_distribute_test.py (see test_processes.py), 13 in optimizers/adam_test.py, 14 and 15 in
optimizers/loss_scale_optimizer_test.py.
"""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from gradclip import ClipByNorm, ClipByValue, Clipper, LimitPolicy
from tests.gradclip.ported.behaviours import behaviour, clip, leaf, values

POLICIES: dict[str, LimitPolicy] = {  # by Keras's argument
    "clipnorm": ClipByNorm(max=1.0, scope="parameter"),
    "clipvalue": ClipByValue(max=1.0),
    "global_clipnorm": ClipByNorm(max=1.0),
}
OPTIMIZERS = [
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]


@behaviour("keras", "1", "test_clip_args", "the argument is kept as an attribute")
@pytest.mark.parametrize("argument", POLICIES)
def test_a_threshold_is_kept(argument: str) -> None:
    policy = replace(POLICIES[argument], max=0.1)
    clipper = Clipper([("w", leaf([1.0]))], policy)
    assert clipper.policy is policy
    assert clipper.policy.max == 0.1


@behaviour(
    "keras",
    "2",
    "test_clip_args",
    "clipnorm together with clipvalue raises a ValueError",
    differs="a Clipper takes one policy, and a list raises a TypeError; a Chain says the order of several",
)
@behaviour(
    "keras",
    "3",
    "test_clip_args",
    "clipnorm together with global_clipnorm raises a ValueError",
    differs="as clipnorm together with clipvalue",
)
@pytest.mark.parametrize("other", ["clipvalue", "global_clipnorm"])
def test_two_policies_without_an_order_are_refused(other: str) -> None:
    both = [POLICIES["clipnorm"], POLICIES[other]]
    with pytest.raises(TypeError, match=r"is a list; Chain\(links="):
        Clipper([("w", leaf([1.0]))], both)


@behaviour("keras", "4", "test_clip_norm", "each variable's gradient is scaled to the norm")
@behaviour("keras", "5", "test_clip_value", "each element is clamped")
@behaviour("keras", "6", "test_global_clip_norm", "the gradients of all variables together are scaled to the norm")
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("clipnorm", [2**-0.5, 2**-0.5, 50 / 12500**0.5, 100 / 12500**0.5]),
        ("clipvalue", [1.0, 1.0, 1.0, 1.0]),
        ("global_clipnorm", [100 / 32500**0.5, 100 / 32500**0.5, 50 / 32500**0.5, 100 / 32500**0.5]),
    ],
)
def test_two_variables(argument: str, expected: list[float]) -> None:
    parameters = [leaf([100.0, 100.0]), leaf([50.0, 100.0])]
    clip(POLICIES[argument], *parameters)
    assert values(*parameters) == pytest.approx(expected, rel=1e-6)


@behaviour("keras", "6", "test_global_clip_norm", "one gradient alone is scaled to the norm")
def test_one_variable() -> None:
    parameter = leaf([50.0, 100.0])
    clip(POLICIES["global_clipnorm"], parameter)
    assert values(parameter) == pytest.approx([0.4472136, 0.8944272], rel=1e-6)


@behaviour(
    "keras",
    "7",
    "test_empty_gradients",
    "no gradient at all raises a ValueError",
    differs="it gives one warning, since a step without gradients changes nothing",
)
@pytest.mark.parametrize("argument", POLICIES)
def test_no_gradient_at_all(argument: str) -> None:
    parameter = Parameter(torch.zeros(2))
    clipper = Clipper([("w", parameter)], POLICIES[argument])
    with pytest.warns(UserWarning, match="none of the Clipper's parameters has one") as caught:
        reports = [clipper.clip(), clipper.clip()]
    assert len(caught) == 1
    assert parameter.grad is None
    assert all(report.before == report.after == 0 and not report.dropped for report in reports)


@behaviour(
    "keras",
    "8",
    "test_empty_gradients",
    "one missing gradient gives a warning, and the other one is used",
    differs="without a warning, since a model may use only a part of its parameters in a step",
)
@pytest.mark.parametrize("argument", POLICIES)
def test_one_missing_gradient(argument: str) -> None:
    missing, present = Parameter(torch.zeros(2)), leaf([100.0, 100.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip(POLICIES[argument], missing, present)
    assert missing.grad is None
    expected = [1.0, 1.0] if argument == "clipvalue" else [2**-0.5, 2**-0.5]
    assert values(present) == pytest.approx(expected, rel=1e-6)


@behaviour("keras", "9", "test_clip_norm in the tests of 14 optimizers", "the same with every optimizer, in float64")
@behaviour("keras", "10", "test_clip_value in the tests of 14 optimizers", "the same with every optimizer")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("argument", "expected"), [("clipnorm", [2**-0.5, 2**-0.5]), ("clipvalue", [1.0, 1.0])], ids=["norm", "value"]
)
def test_every_optimizer_steps_with_the_clipped_gradient(name: str, argument: str, expected: list[float]) -> None:
    clipped, given = (leaf([100.0, 100.0], [1.0, 2.0], torch.float64) for _ in range(2))
    given.grad = torch.tensor(expected, dtype=torch.float64)
    optimizer, reference = (getattr(torch.optim, name)([p], lr=0.1) for p in (clipped, given))
    clipper = Clipper([("w", clipped)], POLICIES[argument], optimizer=optimizer)
    clipper.clip()
    clipper.check()
    assert values(clipped) == pytest.approx(expected, rel=1e-12)
    optimizer.step()
    reference.step()
    torch.testing.assert_close(clipped.detach(), given.detach(), rtol=1e-9, atol=0)
    assert clipped[0] != 1.0


@behaviour(
    "keras", "13", "test_clipnorm_indexed_slices", "a model with a sparse gradient trains under Adam with clipnorm"
)
def test_an_embedding_with_sparse_gradients() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    clipper = Clipper(embedding, replace(POLICIES["clipnorm"], max=100.0), optimizer=optimizer)
    before, words = embedding.weight.detach().clone(), torch.tensor([1, 3, 3])
    for size in (1.0, 1000.0):
        optimizer.zero_grad()
        (size * embedding(words).sum()).backward()
        report = clipper.clip()
        clipper.check()
        gradient = embedding.weight.grad
        assert gradient.is_sparse
        row = size * torch.tensor([0.0, 1, 0, 2, 0]).unsqueeze(1).expand(5, 3)
        expected = row * min(1.0, 100 / row.norm().item())
        torch.testing.assert_close(gradient.to_dense(), expected)
        assert report.fraction == (size > 1)
        optimizer.step()
    changed = (embedding.weight != before).any(1)
    assert changed.tolist() == [False, True, False, True, False]
