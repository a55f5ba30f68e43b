"""The import contracts of pyproject.toml detect forbidden imports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(project: Path) -> tuple[int, str]:
    """The exit status of import-linter, and what it printed, on one line."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(done.stdout.split())


def test_the_contracts_hold(project: Path) -> None:
    assert lint(project)[0] == 0


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("gradclip/norms.py", "from runner import errors", "gradclip.norms -> runner.errors"),
        ("runner/runs/files.py", "from trainer import device", "runner.runs.files -> trainer.device"),
        ("trainer/config/train.py", "from trainer import state", "trainer.config.train -> trainer.state"),
        ("trainer/state.py", "from trainer import loop", "trainer.state -> trainer.loop"),
        ("runner/runs/run.py", "from runner.cli import help", "runner.runs.run -> runner.cli"),
        ("trainer/loop.py", "import evidence.common", "trainer.loop -> evidence"),
    ],
)
def test_an_import_of_a_higher_layer_is_detected(project: Path, module: str, line: str, broken: str) -> None:
    path = project / "src" / module
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    code, output = lint(project)
    assert code == 1
    assert broken in output


def test_the_error_for_a_module_in_no_layer_says_where_to_add_it(project: Path) -> None:
    (project / "src" / "trainer" / "metrics.py").touch()
    code, output = lint(project)
    assert code == 1
    assert "trainer.metrics" in output
    assert "added to the line of its layer in pyproject.toml" in output
