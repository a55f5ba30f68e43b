"""Two projects made from the template, in one environment, each run their own code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.trainer.support import SMALL, text_file

pytestmark = pytest.mark.long


def checkout(folder: Path) -> Path:
    """Copies the parts of this checkout that a run needs into a folder."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    return folder


def test_each_checkout_runs_its_own_code(tmp_path: Path) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    run = second / "src" / "trainer" / "run.py"
    run.write_text(run.read_text(encoding="utf-8").replace('"data: %s"', '"the second project: %s"'), encoding="utf-8")
    # A program's own checkout precedes installed packages and PYTHONPATH.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(first / "src"), str(ROOT / "src")])}
    small = [f"data.path={text_file(tmp_path)}", *SMALL, "log.progress=true"]
    for project, logged in ((first, "data: "), (second, "the second project: ")):
        done = python(project / "train.py", *small, f"hydra.run.dir='{project / 'run'}'", environment=environment)
        assert (done.returncode, done.stderr) == (0, "")  # there is no progress bar in a pipe
        assert logged in done.stdout
    done = python(second / "scripts" / "status.py", str(second / "run"), environment=environment)
    assert "finished at step 6" in done.stdout


def python(script: Path, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
