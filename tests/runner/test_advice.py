"""Suggested thresholds, checked by counting, for runs of this project and event files of other programs."""

import math
import random
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from runner.errors import UserError
from runner.report.advice import SHARES, advise, norms_of, suggestions
from runner.report.cautions import drift, warnings
from runner.runs.status import initial_status, write_status
from runner.sweeps.results import Job, Plan
from runner.tracking.metrics import MetricsWriter
from scripts import suggest_max
from tests.runner.support import compose, program


@pytest.mark.parametrize("count", [100, 1500])
def test_each_threshold_is_exceeded_in_its_share_of_the_steps(count: int) -> None:
    generator = random.Random(count)
    norms = np.array([generator.lognormvariate(0, 1) for _ in range(count)])
    found = suggestions(norms)
    for share, each in zip(SHARES, found, strict=False):
        above = sum(norm > each.threshold for norm in norms.tolist())
        assert abs(above - share * count) <= 1
        assert each.share == above / count
    assert sorted(SHARES) == [0.01, 0.05, 0.10, 0.25]
    mean = sum(norms.tolist()) / count
    assert [each.threshold for each in found[4:6]] == pytest.approx([mean / 2, mean * 10])
    below = sum(norm <= found[6].threshold for norm in norms.tolist())
    assert abs(below - 0.1 * count) <= 1


def test_the_suggested_overrides_compose() -> None:
    for each in suggestions(np.linspace(0.1, 2, 200)):
        assert compose(*each.override.split()).clip.max == pytest.approx(each.threshold, rel=0.01)


def test_drift_is_a_late_median_outside_the_early_norms() -> None:
    generator = random.Random(1)
    steady = np.array([generator.lognormvariate(0, 0.5) for _ in range(1000)])
    assert drift(steady) is None
    assert warnings(steady, {"state": "finished"}) == []
    falling = steady * np.geomspace(10, 1, 1000)
    assert drift(falling) is not None
    (warning,) = warnings(falling, {})
    assert "drift" in warning
    assert "clip=autoclip" in warning
    spike_at_the_start = steady.copy()
    spike_at_the_start[:80] *= 100
    assert drift(spike_at_the_start) is None, "warm-up is no drift"


def test_warnings_for_a_diverged_and_for_a_short_run() -> None:
    first, second = warnings(np.array([1.0, 2.0, 9.0]), {"state": "diverged", "step": 3})
    assert first == (
        "the run diverged at step 3, and its norms are not those of a run that learns: start a run with the advice, "
        "and use the norms of that run"
    )
    assert "3 norms are few" in second


def test_event_files_of_other_programs_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written by torch's SummaryWriter in both formats for scalars; nan and zero are not counted as norms."""
    writer = SummaryWriter(str(tmp_path))
    for step in range(200):
        writer.add_scalar("train/grad_norm", 1.0 + step / 100, step)
        writer.add_scalar("new/grad_norm", 1.0 + step / 100, step, new_style=True)
        writer.add_scalar("loss", 3.0, step)
    writer.add_scalar("train/grad_norm", float("nan"), 200)
    writer.add_scalar("train/grad_norm", 0.0, 201)
    writer.close()
    expected = np.quantile(1.0 + torch.arange(200).numpy() / 100, 0.9)
    for tag in ("train/grad_norm", "new/grad_norm"):
        assert norms_of(tmp_path, tag).size == 200
        suggest_max.main([str(tmp_path), "--tag", tag])
        assert capsys.readouterr().out.count(f"\nadvice: python train.py clip=norm clip.max={expected:.3g}  #") == 1
    (path,) = tmp_path.glob("events*")
    assert norms_of(path, "train/grad_norm").size == 200


def test_the_printed_commands_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The advice as a run, and the hint at another tag as an option of the script, quoted for a shell."""
    writer = SummaryWriter(str(tmp_path))
    for step in range(200):
        writer.add_scalar("grad norm/total [all]", 1.0 + step / 100, step)
    writer.close()
    with pytest.raises(SystemExit):
        suggest_max.main([str(tmp_path), "--tag", "grad norm/total"])
    hint = capsys.readouterr().err.partition("did you mean ")[2].strip().removesuffix("?")
    suggest_max.main([str(tmp_path), *shlex.split(hint)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("advice: ")]
    command = shlex.split(lines[0].removeprefix("advice: "), comments=True)
    assert command[:2] == ["python", "train.py"]
    done = program(*command[2:], "steps=6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_run_of_this_project_is_read_from_metrics_jsonl(tmp_path: Path) -> None:
    """An event file in the same folder is not read."""
    writer = MetricsWriter(tmp_path)
    for step, norm in enumerate((3.0, 1.0, float("inf"), 0.0, 2.0), start=1):
        writer.write(step, {"grad_norm/before": norm, "loss/train": 9.0})
    writer.close()
    (tmp_path / "events.out.tfevents.1.not.one").write_bytes(b"not an event file")
    assert norms_of(tmp_path).tolist() == [3.0, 1.0, 2.0]
    with pytest.raises(UserError, match="no scalar 'grad_norm/befor'; did you mean --tag grad_norm/before"):
        norms_of(tmp_path, "grad_norm/befor")


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = SummaryWriter(str(tmp_path / "other"))
    writer.add_scalar("train/grad_norm", 1.0, 1)
    writer.close()
    for arguments, line in (
        ([str(tmp_path / "nowhere")], "has neither metrics.jsonl nor an event file of TensorBoard"),
        ([str(tmp_path / "other")], "no scalar 'grad_norm/before'; did you mean --tag train/grad_norm?"),
    ):
        with pytest.raises(SystemExit) as end:
            suggest_max.main(arguments)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert (error.count("\n"), line in error) == (1, True), error


def sweep_of(folder: Path, thresholds: dict[float, str]) -> None:
    """A sweep over thresholds of clip=norm at one seed, whose jobs ended in these states; each has 200 norms."""
    values = {"clip.name": "norm", "seed": 1, "lr": 0.1}
    jobs = [Job(number, [], "", None, {"clip.max": limit}, values | {"clip.max": limit})
            for number, limit in enumerate(thresholds)]  # fmt: skip
    for number, state in enumerate(thresholds.values()):
        run = folder / str(number)
        (run / ".hydra").mkdir(parents=True)
        (run / "config.yaml").write_text("seed: 1\n")
        (run / ".hydra" / "overrides.yaml").write_text("- lr=0.1\n- clip=norm\n- clip.max=7\n- 'clip.include=[a]'\n")
        write_status(run, initial_status(200) | {"state": state, "step": 200})
        writer = MetricsWriter(run)
        for step in range(1, 201):
            writer.write(step, {"grad_norm/before": 1.0 + step % 10, "clip/fraction": float(step % 4 == 0)})
        writer.close()
    Plan([], jobs).write(folder)


def test_the_advice_is_below_every_threshold_at_which_a_job_of_the_sweep_diverged(tmp_path: Path) -> None:
    """The 90th percentile of the norms is 9.1; 8 diverged, so that the advice is a tenth of 8."""
    sweep_of(tmp_path / "sweep", {5.0: "finished", 8.0: "diverged", 20.0: "diverged"})
    for job in ("0", "1", "2"):
        text = advise(tmp_path / "sweep" / job)
        line = next(line for line in text.splitlines() if line.startswith("advice: "))
        words = shlex.split(line.removeprefix("advice: "), comments=True)
        assert words[:3] == ["python", "train.py", "lr=0.1"], "the run's overrides, without those of its clipping"
        assert words[3] == "clip=norm"
        assert float(words[4].removeprefix("clip.max=")) < 8
        assert len(words) == 5
        assert "/sweep/1 diverged at clip.max=8; the advised threshold is below that" in text
        assert "25 % of the logged steps were clipped" in text
        assert f"from steps 1 to 200 of {tmp_path}/sweep/{job}, which" in text
    assert "clip.max=0.8 " in advise(tmp_path / "sweep" / "0")
    sweep_of(tmp_path / "good", {5.0: "finished", 8.0: "finished"})
    assert "clip.max=9.1 " in advise(tmp_path / "good" / "0")


def test_a_sweep_is_answered_with_one_of_its_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep_of(tmp_path, {5.0: "finished", 8.0: "finished"})
    with pytest.raises(SystemExit) as end:
        suggest_max.main([str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: a sweep; name one of its jobs: {tmp_path}/0\n"


def test_norms_that_drift_are_answered_with_a_limit_that_follows_them(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    for step in range(1, 301):
        writer.write(step, {"grad_norm/before": 1.0 / step})
    writer.close()
    assert "\nor:     python train.py clip=autoclip  #" in advise(tmp_path)


def run_with(folder: Path, norms: list[float], state: str = "finished", losses: list[float] | None = None) -> Path:
    """The folder of a run with these norms and losses, a step each."""
    folder.mkdir()
    write_status(folder, initial_status(len(norms)) | {"state": state, "step": len(norms)})
    writer = MetricsWriter(folder)
    for step, norm in enumerate(norms, start=1):
        loss = {} if losses is None else {"loss/train": losses[step - 1]}
        writer.write(step, {"grad_norm/before": norm, **loss})
    writer.close()
    return folder


@pytest.mark.parametrize("count", [1, 2, 3, 60, 99])
def test_of_few_norms_no_drift_is_claimed_or_followed(count: int, tmp_path: Path) -> None:
    text = advise(run_with(tmp_path / "run", [1.0 / step for step in range(1, count + 1)]))
    assert f"warning: {count} norm" in text
    assert "clip=norm clip.max=" in text
    assert "python train.py clip=autoclip" not in text


def test_a_run_that_did_not_learn_is_no_measure_of_good_norms(tmp_path: Path) -> None:
    """By the mean of the last ten losses, since single losses vary."""
    rising = [2.32] + [2.34 + 0.1 * (-1) ** step for step in range(199)]
    falling = [2.32] + [2.00 + 0.5 * (-1) ** step for step in range(199)]
    norms = [1.0 + step % 7 for step in range(200)]
    words = "the run did not learn: its loss was 2.3200 first, and 2.3400 on average over the last 10 logged steps"
    assert f"warning: {words}" in advise(run_with(tmp_path / "rising", norms, losses=rising))
    assert "did not learn" not in advise(run_with(tmp_path / "falling", norms, losses=falling))
    assert "did not learn" not in advise(run_with(tmp_path / "diverged", norms, "diverged", losses=rising))
    assert "did not learn" in advise(run_with(tmp_path / "nan", norms, losses=[2.32] + [math.nan] * 199))
    assert "did not learn" not in advise(run_with(tmp_path / "one", norms[:1], losses=rising[:1]))


def test_a_run_without_scalars_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"no scalar 'grad_norm/before'; it has no scalars$"):
        advise(tmp_path)


@pytest.mark.parametrize(("limit", "has"), [(9.1, True), (9.2, False)])
def test_an_advice_that_the_run_has_already_is_named_as_such(limit: float, has: bool, tmp_path: Path) -> None:
    sweep_of(tmp_path, {limit: "finished"})
    OmegaConf.save({"seed": 1, "clip": {"name": "norm", "max": limit}}, tmp_path / "0" / "config.yaml")
    text = advise(tmp_path / "0")
    assert "clip.max=9.1 " in text
    assert ("note: the run has the advised clip=norm clip.max=9.1 already" in text) == has


# -- after a divergence


def commands(text: str) -> list[list[str]]:
    """The words of each printed command, the advice first."""
    lines = [line for line in text.splitlines() if line.startswith(("advice: ", "or:     "))]
    assert lines[0].startswith("advice: ")
    return [shlex.split(line[len("advice: ") :], comments=True)[2:] for line in lines]


def value_of(key: str, overrides: list[str]) -> float | None:
    """The last value of a key in overrides."""
    found = [line.partition("=")[2] for line in overrides if line.partition("=")[0] == key]
    return float(found[-1]) if found else None


@pytest.mark.parametrize("seed", range(20))
def test_no_printed_threshold_is_near_one_at_which_a_job_failed(seed: int, tmp_path: Path) -> None:
    """Neither in a command nor in the table, for any job of a sweep with any thresholds that failed."""
    generator = random.Random(seed)
    limits = [10 ** generator.uniform(-3, 3) for _ in range(4)]
    states = {limit: generator.choice(("finished", "diverged")) for limit in limits}
    sweep_of(tmp_path, states)
    failed = [limit for limit, state in states.items() if state == "diverged"]
    for job in range(len(limits)):
        text = advise(tmp_path / str(job))
        printed = [float(word) for word in re.findall(r"clip\.max=([\d.e+-]+)", text.partition("warning: ")[0])]
        printed += [limit for words in commands(text) if (limit := value_of("clip.max", words)) is not None]
        assert printed
        assert all(limit < 0.34 * lowest for limit in printed for lowest in failed), text
        if failed:
            assert any(f"diverged at clip.max={min(failed):g}" in line for line in text.splitlines())


def diverged_run(
    folder: Path, optimizer: dict[str, float | str], *, weights: float, update: float, norm: float = 0.5
) -> None:
    """A run that diverged at step 40. Its first step, orthogonal to the weights, has this length; then norms grow."""
    (folder / ".hydra").mkdir(parents=True)
    clip = {"name": "norm", "max": 50.0, "scope": "model", "norm_type": 2.0}
    OmegaConf.save({"clip": clip, "optimizer": optimizer, "seed": 1}, folder / "config.yaml")
    lines = [f"optimizer={optimizer['name']}", "clip.max=50", f"optimizer.lr={optimizer['lr']}"]
    OmegaConf.save(lines, folder / ".hydra" / "overrides.yaml")
    write_status(folder, initial_status(200) | {"state": "diverged", "step": 40})
    writer, after = MetricsWriter(folder), math.hypot(weights, update)
    for step in range(1, 41):
        detail = {"weight_norm": after, "update_ratio": update / after} if step == 1 else {}
        values = {"grad_norm/before": norm * 1.2 ** (step - 1), "clip/fraction": 1.0, "lr": float(optimizer["lr"])}
        writer.write(step, values | detail)
    writer.close()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_after_a_divergence_no_step_of_sgd_is_longer_than_a_hundredth_of_the_weights(
    momentum: float, tmp_path: Path
) -> None:
    """And none exceeds the norm of the first step, whatever the learning rate: with momentum, in the limit."""
    for lr in (0.01, 2.0, 300.0):
        run = tmp_path / str(lr)
        diverged_run(run, {"name": "sgd", "lr": lr, "momentum": momentum}, weights=10.0, update=lr * 0.5)
        ((*_, clip, limit),) = commands(advise(run))
        assert clip == "clip=norm"
        longest = lr * float(limit.removeprefix("clip.max=")) / (1 - momentum)
        assert longest == pytest.approx(min(0.01 * 10.0, lr * 0.5), rel=0.01)


@pytest.mark.parametrize("optimizer", [{"name": "adamw", "beta2": 0.999}, {"name": "rmsprop", "alpha": 0.99}])
@pytest.mark.parametrize(("update", "expected"), [(1000.0, 0.01 * 10.0 / 1000.0), (0.5, 0.1)])
def test_after_a_divergence_an_optimizer_that_normalizes_is_given_a_lower_rate(
    optimizer: dict[str, float | str], update: float, expected: float, tmp_path: Path
) -> None:
    """A tenth, or the rate with which the first step is a hundredth of the weights; the threshold is second."""
    diverged_run(tmp_path, {**optimizer, "lr": 1.0}, weights=10.0, update=update)
    text = advise(tmp_path)
    first, second = commands(text)
    assert [line for line in first if not line.startswith("optimizer.lr=")] == [
        f"optimizer={optimizer['name']}", "clip.max=50",
    ], "the run's own clipping"  # fmt: skip
    assert value_of("optimizer.lr", first) == pytest.approx(expected, rel=0.05)
    assert value_of("optimizer.lr", second) == value_of("optimizer.lr", first)
    assert value_of("clip.max", second) == pytest.approx(0.5)
    assert sum(line.startswith("optimizer.lr=") for line in first + second) == 2
    assert "the advised threshold is below" not in text, "the first advice is a rate"
    assert f"note: optimizer={optimizer['name']} divides the gradient by its own size, so that a lower clip.max" in text


def test_the_lower_rate_is_below_one_at_which_a_job_of_the_sweep_diverged(tmp_path: Path) -> None:
    jobs = []
    for number, lr in enumerate((1.0, 0.02)):
        diverged_run(tmp_path / str(number), {"name": "adam", "beta2": 0.999, "lr": lr}, weights=10.0, update=0.1)
        jobs.append(Job(number, [], "", None, {"optimizer.lr": lr}, {"clip.name": "norm", "clip.max": 50.0,
                                                                    "optimizer.lr": lr, "seed": 1}))  # fmt: skip
    Plan([], jobs).write(tmp_path)
    for number in range(2):
        rates = [value_of("optimizer.lr", words) for words in commands(advise(tmp_path / str(number)))]
        assert rates == [pytest.approx(0.002)] * 2


def test_a_finished_run_that_is_clipped_at_every_step_keeps_its_rate_first(tmp_path: Path) -> None:
    diverged_run(tmp_path, {"name": "adam", "beta2": 0.999, "lr": 1.0}, weights=10.0, update=0.5)
    write_status(tmp_path, initial_status(40) | {"state": "finished", "step": 40})
    text = advise(tmp_path)
    first, second = commands(text)[:2]
    assert value_of("optimizer.lr", first) == 1.0
    assert value_of("clip.max", first) == pytest.approx(float(np.quantile(0.5 * 1.2 ** np.arange(40), 0.9)), rel=0.01)
    assert value_of("optimizer.lr", second) == pytest.approx(0.1)
    assert "so that a lower clip.max hardly shortens its steps" in text


def test_the_norms_of_a_divergence_are_no_drift_and_no_thresholds(tmp_path: Path) -> None:
    """What is above the advice has no override, and a limit that follows the norms is not advised."""
    diverged_run(tmp_path, {"name": "sgd", "lr": 0.01}, weights=10.0, update=0.005)
    text = advise(tmp_path)
    assert "drift" not in text
    assert "autoclip" not in "".join(map(" ".join, commands(text)))
    assert re.findall(r"clip=norm clip\.max=([\d.]+)", text) == ["0.5"]
    assert text.count("none: above the advice") == 7


# -- policies that measure something else


@pytest.mark.parametrize(
    ("clip", "words", "resets"),
    [
        ({"scope": "layer", "norm_type": 2.0}, "other norms: clip.scope=layer", ["clip.scope=model"]),
        ({"norm_type": math.inf}, "other norms: clip.norm_type=inf", ["clip.norm_type=2"]),
        ({"exclude": ["head.*"]}, "other norms: clip.exclude=['head.*']", ["clip.exclude=[]"]),
        ({}, None, []),
    ],
)  # fmt: skip
def test_what_else_clip_norm_measures_is_named_and_reset_in_the_command(
    clip: dict[str, Any], words: str | None, resets: list[str], tmp_path: Path
) -> None:
    """The command may keep an experiment, which sets these keys too."""
    sweep_of(tmp_path, {5.0: "finished"})
    OmegaConf.save({"seed": 1, "clip": {"name": "norm", "max": 5.0, **clip}}, tmp_path / "0" / "config.yaml")
    text = advise(tmp_path / "0")
    (found,) = commands(text)
    assert found[found.index("clip=norm") :] == ["clip=norm", "clip.max=9.1", *resets]
    asked = []

    def clip_of(overrides: Sequence[str]) -> dict[str, Any]:
        asked.append(list(overrides))
        return {"name": "norm", "max": 9.1, "scope": "model", "norm_type": 2.0, "exclude": ["head.*"]}

    (found,) = commands(advise(tmp_path / "0", clip_of=clip_of))
    assert found[found.index("clip=norm") :] == ["clip=norm", "clip.max=9.1", *(["clip.exclude=[]"] if resets else [])]
    assert asked == ([["lr=0.1", "clip=norm", "clip.max=9.1"]] if resets else [])
    (found,) = commands(advise(tmp_path / "0", clip_of=lambda overrides: None))
    assert found[found.index("clip=norm") :] == ["clip=norm", "clip.max=9.1", *resets], "not accepted"
    assert ("note: the advice is for clip=norm" in text) == (words is not None)
    assert (words or "") in text
