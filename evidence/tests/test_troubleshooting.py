"""docs/troubleshooting.md quotes messages that the program prints."""

import re
from pathlib import Path

import pytest

from tests import programs
from tests.support import ROOT

PAGE = " ".join((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").split())
SYMPTOMS = [
    ("diverged: the smoothed training loss", ["clip=none", "steps=60"]),
    ("gradients explode", ["clip=none", "steps=60"]),
    ("clipped 100.0 % of the logged steps", ["clip.max=1e-6", "steps=3"]),
    ("clipped 0.0 %", ["clip.max=1e6", "steps=3"]),
    ("device.precision=float16 needs clip.nonfinite=drop", ["device.precision=float16"]),
    ("gradients vanish", ["experiment=depth", "model.gain=0.5", "steps=3", "evaluate_every=1"]),
    ("never used", ["model=linear_net", "data=line", "optimizer.lr=0.01", "steps=6", "evaluate_every=2"]),
]


@pytest.mark.parametrize(("message", "overrides"), SYMPTOMS, ids=[message for message, _ in SYMPTOMS])
def test_a_symptom_is_printed(tmp_path: Path, message: str, overrides: list[str]) -> None:
    assert message in PAGE
    done = programs.run(str(ROOT / "train.py"), *overrides, cwd=tmp_path)
    assert message in re.sub(r" +", " ", done.stdout + done.stderr)


def test_a_resume_that_is_refused(tmp_path: Path) -> None:
    assert "would make it another run" in PAGE
    program = str(ROOT / "train.py")
    assert programs.run(program, "debug=fast", cwd=tmp_path).returncode == 0
    done = programs.run(program, "resume=latest", "optimizer.lr=0.3", cwd=tmp_path)
    assert done.returncode == 2
    assert "would make it another run" in done.stderr


def test_a_launcher_of_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    done = programs.run(str(ROOT / "train.py"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().removeprefix("error: ") in PAGE
