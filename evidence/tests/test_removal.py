"""The project without evidence/, and with one model and one data set, passes its tests.

`pytest evidence/tests/test_removal.py -s -n 0` prints the removed files and the results.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from evidence import checkout
from evidence.checkout import ROOT

BIN = Path(sys.executable).parent
KEPT = {"model": "rnn", "data": "text"}
PACKAGES = {"model": "models", "data": "data"}  # the packages of trainer that build the options
GROUP = re.compile(r"^\s*- (?:override )?/(\w+): (\w+)$", re.MULTILINE)
EXPERIMENT = re.compile(r"^\s*- (\w+)$", re.MULTILINE)


def without_evidence() -> list[Path]:
    return [path for path in checkout.files() if path.parts[0] != "evidence"]


def run(folder: Path, *command: str | Path) -> None:
    """Runs a command in a copy and prints its last line; fails with its output if it failed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    done = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    lines = done.stdout.strip().splitlines()
    print(f"{' '.join(str(part) for part in command)}: {done.returncode}: {lines[-1] if lines else ''}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_checks_pass_without_evidence(tmp_path: Path) -> None:
    copy = checkout.copy(tmp_path / "copy", without_evidence())
    (copy / ".venv").mkdir()
    (copy / ".venv" / "installed").touch()  # uses the current environment
    run(copy, "make", "check", f"BIN={BIN}")
    run(copy, "make", "help")


@pytest.mark.slow
def test_the_tests_pass_without_evidence(tmp_path: Path) -> None:
    copy = checkout.copy(tmp_path / "copy", without_evidence())
    run(copy, sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


@pytest.mark.slow
def test_the_tests_pass_with_one_model_and_one_data_set(tmp_path: Path) -> None:
    files = without_evidence()
    copy = checkout.copy(tmp_path / "copy", files)
    removed = sorted(removable(files))
    print("removed:", *removed, sep="\n  ")
    assert len(removed) > 4 * 7
    for path in removed:
        (copy / path).unlink()
    run(copy, sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


def removable(files: Sequence[Path]) -> set[Path]:
    """All files of every model and data set except those in KEPT, and of the experiments that choose them."""
    found: set[Path] = set()
    removed_options: set[tuple[str, str]] = set()
    for group, kept in KEPT.items():
        names = {path.stem for path in files if path.parent == Path("conf") / group} - {kept}
        removed_options |= {(group, name) for name in names}
        for folder in (f"conf/{group}", f"src/trainer/config/{group}", f"src/trainer/{PACKAGES[group]}"):
            found |= {path for path in files if path.parent == Path(folder) and path.stem in names}
        found |= named_after(files, names)
    experiments = experiments_with(files, removed_options)
    return found | experiments | named_after(files, {path.stem for path in experiments})


def experiments_with(files: Sequence[Path], removed_options: set[tuple[str, str]]) -> set[Path]:
    """The experiments that choose a removed option, or are based on such an experiment."""
    texts = {path: (ROOT / path).read_text() for path in files if path.parent == Path("conf") / "experiment"}
    found = {path for path, text in texts.items() if removed_options & set(GROUP.findall(text))}
    while more := {path for path, text in texts.items() if {each.stem for each in found} & set(EXPERIMENT.findall(text))
                   } - found:  # fmt: skip
        found |= more
    return found


def named_after(files: Iterable[Path], names: set[str]) -> set[Path]:
    return {path for path in files if path.parts[0] == "tests" and path.stem.removeprefix("test_") in names}


def test_all_files_of_a_model_are_found() -> None:
    found = {str(path) for path in removable(without_evidence())}
    assert found >= {
        "conf/model/mlp.yaml",
        "src/trainer/config/model/mlp.py",
        "src/trainer/models/mlp.py",
        "tests/trainer/models/test_mlp.py",
        "conf/experiment/line_120.yaml",
        "conf/experiment/lstm_text.yaml",
        "tests/trainer/data/test_digits.py",
    }
    assert not found & {"conf/model/rnn.yaml", "src/trainer/models/recurrent.py", "src/trainer/data/base.py"}
