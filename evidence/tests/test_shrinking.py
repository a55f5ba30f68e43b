"""docs/shrinking.md: each removal leaves a project whose quick tests and checks pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from evidence import checkout
from evidence.checkout import ROOT
from evidence.tests.test_removal import experiments_with, named_after, run, without_evidence

PAGE = (ROOT / "docs" / "shrinking.md").read_text(encoding="utf-8")
OPTIONS = [("model", "mlp"), ("data", "digits"), ("optimizer", "rmsprop"), ("schedule", "cosine")]
BUILDERS = {"model": "models", "data": "data", "optimizer": "optimizers", "schedule": "schedules"}


def files_of(group: str, name: str) -> set[Path]:
    """The files of an option, its tests, and the experiments that choose it with theirs."""
    files = without_evidence()
    own = {Path(f"conf/{group}/{name}.yaml"), Path(f"src/trainer/config/{group}/{name}.py"),
           Path(f"src/trainer/{BUILDERS[group]}/{name}.py")}  # fmt: skip
    experiments = experiments_with(files, {(group, name)})
    return own | experiments | named_after(files, {name} | {path.stem for path in experiments})


REMOVALS = {f"{group} {name}": files_of(group, name) for group, name in OPTIONS}
REMOVALS["experiment depth"] = {Path("conf/experiment/depth.yaml"), Path("tests/trainer/experiments/test_depth.py")}
REMOVALS["script export"] = {Path("scripts/export.py"), Path("tests/trainer/test_scripts.py")}


def test_the_page_names_the_files() -> None:
    for title, files in REMOVALS.items():
        (row,) = re.findall(rf"^\| an? .*`{title.split()[1]}` \|(.*)\|$", PAGE, re.MULTILINE)
        for path in re.findall(r"`([\w/]+\.(?:py|yaml))`", row):
            assert Path(path) in files, path
            assert (ROOT / path).is_file(), path


@pytest.mark.slow
@pytest.mark.parametrize("title", REMOVALS)
def test_what_is_left_passes(title: str, tmp_path: Path) -> None:
    copy = checkout.copy(tmp_path / "copy", without_evidence())
    for path in REMOVALS[title]:
        (copy / path).unlink()
    run(copy, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-m", "not long", "tests/trainer")
    run(copy, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "tests/trainer/test_conf.py")
    for tool in (["ruff", "check", "."], ["mypy", "src", "scripts", "train.py", "tests"]):
        run(copy, sys.executable, "-m", *tool)
    subprocess.run([Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=copy, check=True,
                   env={"PYTHONPATH": "src", "PATH": "/usr/bin"}, stdout=subprocess.DEVNULL)  # fmt: skip
