"""Sweeps: the whole grid checked and marked before job 0, and run to its end though some jobs diverge."""

import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, composer, program, text_file
from trainer import sweep
from trainer.cli import CONF
from trainer.compose import Composer, checked
from trainer.config import Mistake


def planned(*arguments: str) -> tuple[list[sweep.Job], list[Any]]:
    given = composer().quoted(list(arguments))
    return sweep.plan(composer(), composer().compose(given, multirun=True), given)


def test_the_grid_is_expanded_in_hydras_order() -> None:
    jobs, configs = planned("clip=none,norm", "clip.max=0.5,1.0", "seed=range(1,4)", "steps=7")
    expected = [["clip=" + c, "clip.max=" + m, f"seed={s}", "steps=7"] for c, m, s in
                product(["none", "norm"], ["0.5", "1.0"], [1, 2, 3])]  # fmt: skip
    assert [job.overrides for job in jobs] == expected
    assert [job.number for job in jobs] == list(range(12))
    assert [(c.clip.name, c.clip.max, c.seed) for c in configs][6:8] == [("norm", 0.5, 1), ("norm", 0.5, 2)]


def test_the_fast_grid_composes_what_hydra_composes() -> None:
    arguments = ["optimizer=sgd,adam", "optimizer.lr=0.1,0.2", "experiment=lstm_text", "clip.include=[output.*],[]",
                 "debug=nan", "++log.every=3", "data={window: 9}"]  # fmt: skip
    for job, config in zip(*planned(*arguments), strict=True):
        assert config == checked(composer().compose(job.overrides))


def test_duplicates_are_marked() -> None:
    jobs, _ = planned("clip=none,norm", "clip.max=0.5,1.0", "seed=1,2")
    assert [job.duplicate_of for job in jobs] == [None, None, 0, 1, None, None, None, None]
    assert [job.config == jobs[0].config for job in jobs] == [True, False, True] + [False] * 5
    assert [job.duplicate_of for job in planned("seed=1,2,1")[0]] == [None, None, 0]


def test_two_hundred_points_in_ten_seconds() -> None:
    started = time.process_time()
    jobs, _ = planned("clip=none,norm,value", "clip.max=0.1,0.2,0.5,1,2,5,10", "seed=range(0,10)")
    assert len(jobs) == 210
    assert time.process_time() - started < 10


def test_the_sweepers_own_parameters_count(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "grid.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 1,2\n      clip.max: 3,4\n"
    )
    own = Composer(CONF, extra=tmp_path)
    jobs, _ = sweep.plan(own, own.compose(["experiment=grid"], multirun=True), ["steps=5"])
    assert [job.overrides for job in jobs] == [
        [f"seed={s}", f"clip.max={m}", "steps=5"] for s, m in product([1, 2], [3, 4])
    ]


def test_the_first_wrong_point_is_named() -> None:
    with pytest.raises(Mistake, match=r"clip\.max=-1\.0: .* \(job 2: clip\.max=-1 seed=1\)"):
        planned("clip.max=1,-1", "seed=1,2")


def test_the_sweep_of_the_readme(tmp_path: Path) -> None:
    """It runs to its end though jobs without clipping diverge, and leaves the contract's files."""
    text = text_file(tmp_path, 8000)
    wild = (f"data.path={text}", "steps=40", "model.hidden=64", "data.sample=0", "optimizer.lr=20", "evaluate_every=20")
    done = program("-m", "clip=none,norm,value", "clip.max=0.5,1.0", "seed=1,2", *wild, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert (tmp_path / "outputs" / "latest").resolve() == folder.resolve()
    plan = json.loads((folder / "sweep.json").read_text())
    assert plan["arguments"][:3] == ["clip=none,norm,value", "clip.max=0.5,1.0", "seed=1,2"]
    assert len(plan["jobs"]) == 12
    found = [json.loads((folder / str(number) / "status.json").read_text()) for number in range(12)]
    states = [status["state"] for status in found]
    assert states[:4] == ["diverged", "diverged", "duplicate", "duplicate"]
    assert [status["duplicate_of"] for status in found[:4]] == [None, None, 0, 1]
    assert set(states[4:]) <= {"finished", "diverged"}
    assert "finished" in states[4:]
    for number in (2, 3):
        assert not list((folder / str(number)).glob("events*"))


def test_a_job_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    """The file of job 0 vanishes after the check: that job fails, the next one runs, the sweep says 1."""
    text = text_file(tmp_path)
    code = (
        "import sys, runpy, trainer.loop\n"
        "real = trainer.loop.build\n"
        "def build(config):\n"
        "    if config.seed == 1: raise RuntimeError('a bug')\n"
        "    return real(config)\n"
        "trainer.loop.build = build\n"
        f"sys.argv = ['train.py', '-m', 'seed=1,2', 'data.path={text}', 'steps=2', 'data.sample=0']\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    found = [json.loads((folder / number / "status.json").read_text()) for number in ("0", "1")]
    assert [(status["state"], status["reason"]) for status in found] == [
        ("failed", "RuntimeError: a bug"), ("finished", None)]  # fmt: skip
