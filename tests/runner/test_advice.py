"""Suggested thresholds, checked by counting, for runs of this project and event files of other programs."""

import random
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from runner.errors import UserError
from runner.report.advice import SHARES, advise, drift, norms_of, suggestions, warnings
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
    assert "diverged at step 3" in first
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
        assert "/sweep/1 diverged at clip.max=8; the advice is below that" in text
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
