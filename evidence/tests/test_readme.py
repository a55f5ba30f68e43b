"""The README cannot drift: its commands run, shortened; its answers are the program's; its targets exist."""

import json
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evidence import default_job
from tests import programs
from tests.support import ROOT
from trainer.loop import run_recorded
from trainer.project import compose

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["steps=3", "evaluate_every=3", "schedule.warmup=0"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return programs.run(*arguments, cwd=cwd)


def test_the_commands_run(tmp_path: Path) -> None:
    for name in ("train.py", "conf", "scripts", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    found = [command[1:] for command in commands("python") if command[1] != "-m"]
    later = [command for command in found if "outputs/latest" in str(command) or "resume" in str(command)]
    trainings = [command for command in found if command[0] == "train.py" and command not in later]
    assert len(trainings) >= 12
    shortened = [command if "--help" in command else [*command, *SHORT] for command in trainings]
    shortened = [[*c, "model.hidden=8", "data.sample=0"] if "-m" in c else c for c in shortened]
    shortened = [[*c, "sweep.dry_run=true"] if "hydra/launcher=submitit_slurm" in c else c for c in shortened]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda command: run(command, tmp_path), shortened))
    for command, done in zip(trainings, results, strict=True):
        if "device=cuda" in command and "this machine" in done.stderr:
            continue  # and so the line for a machine without one is seen too
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert len(later) >= 6
    assert run([*trainings[0], *SHORT], tmp_path).returncode == 0  # the newest of them need not have been a single run
    for number, command in enumerate(later, start=4):
        shorter = [*SHORT, f"steps={number}"] if command[0] == "train.py" else []
        done = run([*command, *shorter], tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    for command in found:  # last, since a search is the newest, too
        if command[0] != "train.py" and command not in later:
            done = run([*command, *SHORT, *(["--trials=2"] if "tune" in command[0] else [])], tmp_path)
            assert done.returncode == 0, (command, done.stderr)


def test_the_answers_are_the_programs(tmp_path: Path) -> None:
    (block,) = blocks("console")
    command, answer = block.removeprefix("$ python ").split("\n", 1)
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    given = [sys.executable, *shlex.split(command)]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == answer


def test_the_python_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    before, after, *_ = (float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", capsys.readouterr().out))
    assert after == pytest.approx(min(before, 1.0), rel=1e-5)


def test_the_targets_exist() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = {line.split()[0] for line in listed.splitlines()}
    assert targets == {
        "help",
        "install",
        "train",
        "test",
        "check",
        "format",
        "tensorboard",
        "report",
        "studies",
        "clean",
    }
    assert all(len(line.split()) > 2 for line in listed.splitlines()), "each with one line"
    assert {command[1] for command in commands("make")} <= targets


def test_it_is_short_and_begins_with_what_matters() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    first_screen = "\n".join(lines[:24])
    for wanted in ("make train", "make tensorboard", "python train.py clip=norm clip.max=1.0", "](docs/norms.png)"):
        assert wanted in first_screen
    for path in re.findall(r"\]\(([^)#]+)\)", README):
        assert path.startswith("https://") or (ROOT / path).is_file(), path


# -- what its first screen claims


@pytest.mark.parametrize("seed", range(5))
def test_the_default_job_diverges_without_clipping(tmp_path: Path, seed: int) -> None:
    from trainer.loop import run_recorded

    assert (
        run_recorded(compose("clip=none", f"seed={seed}", "log.progress=false"), tmp_path / "run").state == "diverged"
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_job_learns_with_clipping(tmp_path: Path, seed: int) -> None:
    config = compose("clip=norm", "clip.max=1.0", f"seed={seed}", "steps=150", "log.progress=false")
    assert run_recorded(config, tmp_path / "run").state == "finished"
    loss = json.loads((tmp_path / "run" / "status.json").read_text())["objective"]
    assert loss < 2.3  # all characters alike: 4.63; by their frequency alone: 3.25


def test_the_page_of_the_default_job(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    default_job.main(["--seeds", "1", "--page", str(page), "steps=12"])
    written = page.read_text()
    assert "| 0 | diverged at step" in written
    assert "finished, best validation loss" in written
    shown = (ROOT / "evidence" / "docs" / "default_job.md").read_text()
    assert shown.count("diverged at step") == shown.count("finished, best") == 5
