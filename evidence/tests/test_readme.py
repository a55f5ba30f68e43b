"""README and docs match the program: their commands run, shortened; answers are the program's; targets exist."""

import re
import shlex
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evidence import default_job
from evidence.common import status_of
from evidence.pages import cells, content
from tests import programs
from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("runs.md", "sweeps.md"))]
SHORT = ["steps=3", "evaluate_every=3", "schedule.warmup=0"]


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """The commands of a program on all pages, each once, in their order."""
    lines = [line for page in PAGES for block in blocks("bash", page) for line in block.splitlines()]
    found = [tuple(shlex.split(line, comments=True)) for line in lines if line.startswith(f"{program} ")]
    return [list(command) for command in dict.fromkeys(found)]


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return programs.run(*arguments, cwd=cwd)


def shortened(command: list[str]) -> list[str]:
    """Shortens a run or a sweep to a few steps, a search to two trials, and replaces a Slurm cluster by local jobs."""
    if "--help" in command:
        return command
    words = [*command, *SHORT]
    if "-m" in command:
        words += ["model.hidden=8", "data.sample=0"]
    if "sweep.launcher=slurm" in command:
        words += ["sweep.slurm.cluster=local"]
    return [re.sub(r"^sweep\.trials=\d+$", "sweep.trials=2", word) for word in words]


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    for name in ("train.py", "src", "conf", "scripts", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    found = [command[1:] for command in commands("python") if command[1] != "-m"]
    (resumed,) = (command for command in found if any(word.startswith("sweep.resume=") for word in command))
    (reported,) = (command for command in found if command[0] == "scripts/report.py")
    later = [command for command in found if "outputs/latest" in str(command) or "resume" in str(command)]
    trainings = [command for command in found if command[0] == "train.py" and command not in later]
    assert len(trainings) >= 12
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda command: run(shortened(command), tmp_path), trainings))
    for command, done in zip(trainings, results, strict=True):
        if "device=cuda" in command and "this machine" in done.stderr:
            continue  # on a machine without CUDA the refusal is tested
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert run(shortened(["train.py", "-m", "seed=1,2"]), tmp_path).returncode == 0
    for command in (resumed, reported):  # the newest is a sweep
        done = run(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert len(later) >= 8
    assert run([*trainings[0], *SHORT], tmp_path).returncode == 0  # the newest is a single run
    for number, command in enumerate((each for each in later if each not in (resumed, reported)), start=4):
        shorter = [*SHORT, f"steps={number}"] if command[0] == "train.py" else []
        done = run([*command, *shorter], tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    for command in found:
        if command[0] != "train.py" and command not in later:
            done = run([*command, *SHORT], tmp_path)
            assert done.returncode == 0, (command, done.stderr)


def test_the_printed_output_is_the_programs(tmp_path: Path) -> None:
    (block,) = blocks("console")
    command, answer = block.removeprefix("$ python ").split("\n", 1)
    program, *arguments = shlex.split(command)
    given = [sys.executable, str(ROOT / program), *arguments]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == answer


def test_the_python_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    before, after, *_ = (float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", capsys.readouterr().out))
    assert after == pytest.approx(min(before, 1.0), rel=1e-5)


def test_the_targets_exist() -> None:
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0]: line.split()[1:] for line in listed.splitlines()}
    assert targets.keys() >= {"help", "install", "train", "test", "check", "evidence", "evidence-quick", "studies"}
    assert all(len(words) > 1 for words in targets.values()), "each has one line of help"
    assert {command[1] for command in commands("make")} <= targets.keys()


def test_it_is_short_and_begins_with_the_commands() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    first_screen = "\n".join(lines[:24])
    for wanted in ("make train", "make tensorboard", "python train.py clip=norm clip.max=1.0", "](docs/norms.png)"):
        assert wanted in first_screen


# -- the claims of its first screen


@pytest.mark.parametrize("seed", range(5))
def test_the_default_job_diverges_without_clipping(tmp_path: Path, seed: int) -> None:
    status = status_of(tmp_path / "run", "experiment=default_job", "clip=none", f"seed={seed}")
    assert status["state"] == "diverged"


def test_the_default_job_learns_with_clipping(tmp_path: Path) -> None:
    """A tenth of the job, three seeds: the median loss is below 3.25, that of the characters' frequencies alone."""
    found = [status_of(tmp_path / str(seed), "experiment=threshold", f"seed={seed}") for seed in range(3)]
    assert [status["state"] for status in found] == ["finished"] * 3
    assert statistics.median(status["objective"] for status in found) < 3.0


def test_the_page_of_the_default_job(tmp_path: Path) -> None:
    page = Path(shutil.copy(default_job.PAGE, tmp_path))
    shown = cells(content(page.read_text(encoding="utf-8"), "ends"))
    assert len(shown) == 5
    default_job.main(["--seeds", "1", "--page", str(page), "steps=12"])
    for row in (*shown, *cells(content(page.read_text(encoding="utf-8"), "ends"))):
        assert row[1].startswith("diverged at step")
        assert row[2].startswith("finished, best validation loss")
