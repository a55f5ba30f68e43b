"""The cause of a divergence, found from artificial evidence, and the text of a post-mortem."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from runner.report.commands import repeat_command
from runner.report.post_mortem import (
    ABOVE_REACH,
    CLIPPED_UPDATE,
    EXPLOSION,
    INPUT,
    JUMPED,
    OVERFLOW,
    UPDATE,
    VANISHING,
    WEIGHTS,
    Advice,
    Evidence,
    Step,
    find_cause,
    from_log,
    is_jump,
    markdown,
)
from runner.report.settings import Settings
from runner.tracking.metrics import MetricsWriter


def steps(losses: list[float], norms: list[float], limit: float = math.inf, lr: float = 0.1) -> list[Step]:
    """A step for each loss and norm, clipped to the limit."""
    return [
        Step(number, loss, norm, min(norm, limit), limit, norm > limit, lr, 1.0, 10.0)
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1)
    ]


ADAM = Settings(optimizer={"name": "adam", "beta2": 0.999})
RISING, GROWING = [2.0, 3.0, 9.0, 40.0], [1.0, 8.0, 60.0, 500.0]


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (Evidence(steps(RISING, GROWING)), EXPLOSION),
        (Evidence(steps(RISING, GROWING, limit=1000)), ABOVE_REACH),
        (Evidence(steps(RISING, GROWING, limit=2)), CLIPPED_UPDATE),
        (Evidence(steps(RISING, GROWING, limit=100)), ABOVE_REACH),  # one of four steps
        (Evidence(steps(RISING, GROWING, limit=2), ADAM), CLIPPED_UPDATE),
        (Evidence(steps(RISING, GROWING), ADAM), UPDATE),
        (Evidence([*steps(RISING, GROWING), Step(5, math.nan, math.nan, math.nan, math.nan, False, 0.1)]), EXPLOSION),
        (Evidence(steps(RISING, GROWING), vanishing=0.5), VANISHING),
        (Evidence(steps(RISING, GROWING), vanishing=0.4), EXPLOSION),
        (Evidence(steps(RISING, GROWING), bad_input=4), INPUT),
        (Evidence(steps(RISING, GROWING), overflow=4), OVERFLOW),
        (Evidence(steps([2.0, 2.0], [1.0, 1.5]), bad_weights=(3, "w")), WEIGHTS),
        (Evidence(steps(RISING, GROWING), bad_weights=(5, "w")), EXPLOSION),  # the gradients were large before
    ],
)
def test_the_cause(evidence: Evidence, cause: str) -> None:
    assert find_cause(evidence).name == cause


LEVEL = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9]


@pytest.mark.parametrize(
    ("losses", "jump", "cause"),
    [
        ([*LEVEL, 20.0, 60.0], (7, 1.05), JUMPED),
        ([*LEVEL, 20.0, 60.0], (7, 19.0), EXPLOSION),  # with these weights, other batches have a high loss too
        ([*LEVEL, 0.8, 20.0, 0.7, 5.0, 60.0], (8, 1.0), EXPLOSION),  # the loss fell again
    ],
)
def test_a_jump_is_that_of_one_batch_after_which_the_loss_stays_high(
    losses: list[float], jump: tuple[int, float], cause: str
) -> None:
    found = find_cause(Evidence(steps(losses, losses), jump=jump))
    assert found.name == cause
    if cause == JUMPED:
        assert "At step 7 (batch 6 of the run, counted from 0)" in found.evidence


def test_a_jump_exceeds_six_standard_deviations() -> None:
    """Those of [0, 2, 0, 2, 0, 2] have the mean 1 and the standard deviation 1."""
    earlier = [0.0, 2.0, 0.0, 2.0, 0.0, 2.0]
    assert not is_jump(7.0, earlier)
    assert is_jump(7.001, earlier)
    assert is_jump(math.nan, earlier)
    assert not is_jump(100.0, earlier[:4]), "four losses are too few"
    assert not is_jump(7.0, [*earlier, math.nan, math.inf])


def test_the_evidence_of_a_clipped_update_is_arithmetic() -> None:
    found = find_cause(Evidence(steps(RISING, GROWING, limit=2, lr=30)))
    assert "limited 3 of the last 4 steps" in found.evidence
    assert "learning rate 30 times norm 2 is 60 a step" in found.evidence
    assert "moved the weights by 1, 10 % of their norm of 10." in found.evidence


def test_the_usual_norm_is_that_before_the_rise() -> None:
    falling = steps([3.0, 2.0, 1.0, 5.0, 50.0], [1.0, 1.0, 2.0, 100.0, 1e6])
    assert Evidence(falling).usual_norm == pytest.approx(1.8)  # the 90th percentile of 1, 1 and 2
    assert Evidence(steps([1.0, 2.0], [4.0, 1e9])).usual_norm == 4.0
    assert Evidence(steps([1.0], [math.nan])).usual_norm is None


def test_the_text_of_a_post_mortem() -> None:
    evidence = Evidence(steps(RISING, GROWING), replayed=True, parameters={"a": 3.0, "b": 4.0}, nonfinite=["b", "c"])
    cause = find_cause(evidence)
    text = markdown("the loss is high", evidence, cause, [Advice("python train.py x=1", "Tried.")], ["x=2: diverged"])
    assert f"Cause: {cause.name}.\n{cause.evidence}\n" in text
    assert "1. Tried.\n\n       python train.py x=1\n" in text
    assert "- x=2: diverged\n" in text
    assert "b 4 (64 % of the square), a 3 (36 % of the square)" in text
    assert "The first non-finite gradients: b, c." in text
    rows = re.findall(r"^\| +(\d+) \|", text, re.M)
    assert rows == ["1", "2", "3", "4"]
    assert max(map(len, text.splitlines())) < 200


def test_a_long_run_shows_its_last_steps() -> None:
    evidence = Evidence(steps([1.0] * 50, [1.0] * 50))
    text = markdown("", evidence, find_cause(evidence), [])
    assert re.findall(r"^\| +(\d+) \|", text, re.M) == [str(number) for number in range(43, 51)]


def test_the_steps_are_read_from_the_log(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss/train": 2.0, "grad_norm/before": 4.0, "grad_norm/after": 1.0, "clip/limit": 1.0,
                     "clip/fraction": 1.0, "lr": 0.1, "weight_norm": 8.0, "update_ratio": 0.25})  # fmt: skip
    writer.write(2, {"loss/train": 3.0, "grad_norm/before": 0.5, "grad_norm/after": 0.5, "clip/limit": 1.0,
                     "clip/fraction": 0.0, "lr": 0.1})  # fmt: skip
    writer.close()
    first, second = from_log(tmp_path)
    assert first == Step(1, 2.0, 4.0, 1.0, 1.0, True, 0.1, 2.0, 8.0)
    assert second == replace(first, number=2, loss=3.0, before=0.5, after=0.5, limited=False, update=None, weight=None)


def test_a_command_replaces_the_overrides_of_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    own = ["model=mlp", "clip=norm", "clip.max=3", "optimizer.lr=30", "+data.path='a b'", "resume=x", "sweep.jobs=2"]
    (tmp_path / ".hydra" / "overrides.yaml").write_text("\n".join(f"- {line}" for line in own))
    assert shlex.split(repeat_command(tmp_path, ["optimizer.lr=1"])) == [
        "python", "train.py", "model=mlp", "clip=norm", "clip.max=3", "+data.path='a b'", "optimizer.lr=1"
    ]  # fmt: skip
    assert shlex.split(repeat_command(tmp_path, ["clip=norm", "clip.max=1"])) == [
        "python", "train.py", "model=mlp", "optimizer.lr=30", "+data.path='a b'", "clip=norm", "clip.max=1"
    ]  # fmt: skip
