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
    AT_START,
    CLIPPED_UPDATE,
    EXPLOSION,
    INPUT,
    JUMPED,
    OVERFLOW,
    UNKNOWN,
    UPDATE,
    VANISHING,
    WEIGHTS,
    Evidence,
    Step,
    find_cause,
    from_log,
    is_jump,
)
from runner.report.post_mortem_text import Advice, markdown
from runner.report.settings import Settings
from runner.tracking.metrics import MetricsWriter


def steps(losses: list[float], norms: list[float], limit: float = math.inf, lr: float = 0.1) -> list[Step]:
    """A step for each loss and norm, clipped to the limit."""
    return [
        Step(number, loss, norm, min(norm, limit), limit, norm > limit, lr, 1.0, 10.0)
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1)
    ]


NONE, NORM = Settings({"name": "none"}), Settings({"name": "norm", "max": 1.0})
ADAM = Settings({"name": "norm"}, {"name": "adam", "beta2": 0.999})
RISING, GROWING = [2.0, 3.0, 9.0, 40.0], [1.0, 8.0, 60.0, 500.0]
FAILED = Step(5, math.nan, math.nan, math.nan, math.nan, False, 0.1, None, 10.0)
LONG = [Step(1, 2.0, 2.5, 2.5, math.inf, False, 3.0, 25.0, 10.0), Step(2, 9.0, 60.0, 60.0, math.inf, False, 3.0)]


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (Evidence(steps(RISING, GROWING), NONE), EXPLOSION),
        (Evidence([*steps(RISING, GROWING), FAILED], NONE), EXPLOSION),
        (Evidence(steps(RISING, GROWING, limit=1000), NORM), ABOVE_REACH),
        (Evidence([*steps(RISING, GROWING, limit=1000), FAILED], NORM), ABOVE_REACH),
        (Evidence(steps(RISING, GROWING, limit=2), NORM), CLIPPED_UPDATE),
        (Evidence(steps(RISING, GROWING, limit=100), NORM), ABOVE_REACH),  # one of four steps
        (Evidence(steps(RISING, GROWING, limit=2), ADAM), CLIPPED_UPDATE),
        (Evidence(steps(RISING, GROWING), ADAM), UPDATE),
        (Evidence(LONG, NONE), UPDATE),  # 2.5 times the weights, by a gradient of a quarter of them
        (Evidence([replace(LONG[0], before=101.0), LONG[1]], NONE), EXPLOSION),
        (Evidence([replace(LONG[0], update=9.0), LONG[1]], NONE), EXPLOSION),
        (Evidence(steps(RISING, GROWING), NONE, vanishing=0.5), VANISHING),
        (Evidence(steps(RISING, GROWING), NONE, vanishing=0.4), EXPLOSION),
        (Evidence(steps(RISING, GROWING), ADAM, vanishing=0.5), VANISHING),
        (Evidence(LONG, ADAM, vanishing=0.5), UPDATE),
        (Evidence(steps(RISING, GROWING), NONE, bad_input=4), INPUT),
        (Evidence(steps(RISING, GROWING), NONE, overflow=4), OVERFLOW),
        (Evidence(steps([2.0, 2.0], [1.0, 1.5]), NONE, bad_weights=(3, "w")), WEIGHTS),
        (Evidence(steps(RISING, GROWING), NONE, bad_weights=(5, "w")), EXPLOSION),  # the gradients were large before
        (Evidence([replace(FAILED, number=1)], NORM, nonfinite=["w"]), AT_START),
        (Evidence([FAILED], NORM, nonfinite=["w"]), UNKNOWN),  # an earlier step can be the cause
        (Evidence(steps([2.0, math.nan], [1.0, 1.0]), NONE), UNKNOWN),
        (Evidence([], NONE), UNKNOWN),
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
    found = find_cause(Evidence(steps(losses, losses), NONE, jump=jump))
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
    found = find_cause(Evidence(steps(RISING, GROWING, limit=2, lr=30), NORM))
    assert "limited 3 of the last 4 steps" in found.evidence
    assert "learning rate 30 times norm 2 is 60 a step" in found.evidence
    assert "moved the weights by 1, 10 % of their norm of 10." in found.evidence


def test_the_usual_norm_is_that_before_the_rise() -> None:
    falling = steps([3.0, 2.0, 1.0, 5.0, 50.0], [1.0, 1.0, 2.0, 100.0, 1e6])
    assert Evidence(falling).usual_norm == pytest.approx(1.8)  # the 90th percentile of 1, 1 and 2
    assert Evidence(steps([1.0, 2.0], [4.0, 1e9])).usual_norm == 4.0
    assert Evidence(steps([1.0], [math.nan])).usual_norm is None


def test_the_text_of_a_post_mortem() -> None:
    evidence = Evidence(steps(RISING, GROWING), NONE, replayed=True, nonfinite=["b", "c"],
                        parameters={4: {"a": 3.0, "b": 4.0, "z": 0.0}, 3: {"a": 1.0, "b": 0.0}})  # fmt: skip
    cause = find_cause(evidence)
    text = markdown("the loss is high", evidence, cause, [Advice("python train.py x=1", "Tried.")], ["- x=2: diverged"])
    assert f"Cause: {cause.name}.\n{cause.evidence}\n" in text
    assert "1. Tried.\n\n       python train.py x=1\n" in text
    assert "- x=2: diverged\n" in text
    assert "The largest gradients of step 4: b 4 (64 % of the square), a 3 (36 % of the square)." in text
    assert "The first non-finite gradients: b, c." in text
    assert shown(text) == ["1", "2", "3", "4"]
    assert max(map(len, text.splitlines())) < 200


def shown(text: str) -> list[str]:
    """The first column of the table of the last steps."""
    return re.findall(r"^\| +(\d+|…) \|", text, re.M)


def test_the_table_shows_the_last_steps_or_the_beginning_and_the_end_of_a_longer_rise() -> None:
    level = Evidence(steps([1.0] * 50, [1.0] * 50), NONE)
    assert shown(markdown("", level, find_cause(level), [])) == [str(number) for number in range(43, 51)]
    risen = Evidence(steps([1.0] * 20 + [9.0] * 30, [1.0] * 20 + [90.0] * 30), NONE)
    assert shown(markdown("", risen, find_cause(risen), [])) == ["19", "20", "21", "22", "23", "24", "…", "49", "50"]


def test_a_post_mortem_without_a_step_is_short() -> None:
    empty = Evidence([], NONE)
    text = markdown("a reason", empty, find_cause(empty), [])
    assert text == "# Post-mortem\n\nThe run diverged: a reason.\n\nCause: unknown.\nNo step was logged before.\n"


def test_the_steps_are_read_from_the_log(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss/train": 2.0, "grad_norm/before": 4.0, "grad_norm/after": 1.0, "clip/limit": 1.0,
                     "clip/fraction": 1.0, "lr": 0.1, "grad_norm_before/a.b": 4.0})  # fmt: skip
    writer.write(2, {"loss/train": 3.0, "grad_norm/before": 0.5, "grad_norm/after": 0.5, "clip/limit": 1.0,
                     "clip/fraction": 0.0, "lr": 0.1})  # fmt: skip
    writer.close()
    evidence = from_log(tmp_path, NORM)
    first, second = evidence.steps
    assert first == Step(1, 2.0, 4.0, 1.0, 1.0, True, 0.1)
    assert second == replace(first, number=2, loss=3.0, before=0.5, after=0.5, limited=False)
    assert evidence.parameters == {1: {"a.b": 4.0}}


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


def test_a_command_keeps_the_folders_with_further_options(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- model=mine")
    lines = "hydra:\n  overrides:\n    hydra:\n    - hydra.searchpath=['file:///a b']\n    - hydra.run.dir=x\n"
    (tmp_path / ".hydra" / "hydra.yaml").write_text(lines)
    assert shlex.split(repeat_command(tmp_path, ["seed=2"])) == [
        "python", "train.py", "hydra.searchpath=['file:///a b']", "model=mine", "seed=2"
    ]  # fmt: skip
