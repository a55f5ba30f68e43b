"""Two projects made from the template run side by side, from one environment, each with its own code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT


def checkout(folder: Path) -> Path:
    """A copy of what a run needs of this checkout."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    return folder


def test_each_checkout_runs_its_own_code(tmp_path: Path) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    run = second / "src" / "trainer" / "run.py"
    run.write_text(run.read_text(encoding="utf-8").replace('"data: %s"', '"the second project: %s"'), encoding="utf-8")
    # Whatever is installed, or stands on PYTHONPATH, a program's own checkout comes first.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(first / "src"), str(ROOT / "src")])}
    for project, said in ((first, "data: "), (second, "the second project: ")):
        folder = tmp_path / f"run of {project.name}"
        commands = [
            [str(project / "train.py"), "debug=fast", "model.hidden=4", f"hydra.run.dir='{folder}'"],
            [str(project / "scripts" / "status.py"), str(folder)],
        ]
        train, status = (
            subprocess.run(
                [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            for command in commands
        )
        assert train.returncode == 0, train.stderr
        assert said in train.stdout
        assert "finished at step 5" in status.stdout
