"""The example of training from Python runs from top to bottom."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.py"


def test_the_notebook_runs(tmp_path: Path) -> None:
    """As `python docs/notebook.py` does, in a copy of the project, so that its runs are not in this one's outputs."""
    for name in ("src", "conf", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run([sys.executable, str(NOTEBOOK)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^finished 0\.\d+ .*outputs/runs/", done.stdout, re.M)
    assert re.search(r"^diverged the smoothed training loss ", done.stdout, re.M)
    assert "\nclip.maximum=1: no such key in clip=norm; did you mean clip.max?\n" in done.stdout
    assert "'grad_norm/after': 10.0" in done.stdout
    assert "60 steps; the last: (60, " in done.stdout
    assert re.search(r"^step 60: loss 0\.\d+$", done.stdout, re.M)
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 2


def test_its_cells_are_in_the_percent_format() -> None:
    """Every cell begins with a marker, and text cells have comments only."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n")
    for kind, cell in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", text, re.M | re.S):
        lines = cell.strip().splitlines()
        assert lines
        assert all(line.startswith("#") for line in lines) == bool(kind)
