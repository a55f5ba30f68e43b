"""Sweeps: the whole grid checked and marked before job 0, and run to its end though some jobs diverge."""

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from runner.cli import preflight as cli
from runner.cli.preflight import CONF
from runner.compose import Composer, checked
from runner.errors import UserError
from runner.sweeps import grid as sweep
from runner.sweeps.results import Job, read_plan
from tests.support import program
from tests.trainer.support import text_file
from trainer.config import flat
from trainer.project import composer


def planned(*arguments: str) -> tuple[list[Job], list[Any]]:
    given = composer().quoted(list(arguments))
    plan, configs = sweep.plan(composer(), composer().compose(given, multirun=True), given)
    return plan.jobs, configs


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
    plan, _ = sweep.plan(own, own.compose(["experiment=grid"], multirun=True), ["steps=5"])
    assert [job.overrides for job in plan.jobs] == [
        [f"seed={s}", f"clip.max={m}", "steps=5"] for s, m in product([1, 2], [3, 4])
    ]


def test_the_first_wrong_point_is_named() -> None:
    with pytest.raises(UserError, match=r"clip\.max=-1\.0: .* \(job 2: clip\.max=-1 seed=1\)"):
        planned("clip.max=1,-1", "seed=1,2")


def test_what_is_asked_of_the_whole_sweep_is_not_swept() -> None:
    with pytest.raises(UserError, match=r"^sweep\.dry_run=true,false: is asked of the whole sweep, and has one value$"):
        planned("seed=1,2", "sweep.dry_run=true,false")


def test_the_sweep_of_the_readme(tmp_path: Path) -> None:
    """It runs to its end though jobs without clipping diverge, and leaves the contract's files."""
    text = text_file(tmp_path, 8000)
    wild = (f"data.path={text}", "steps=20", "model.hidden=32", "data.sample=0", "optimizer.lr=20", "evaluate_every=10")
    done = program("-m", "clip=none,norm,value", "clip.max=0.5,1.0", "seed=1,2", *wild, cwd=tmp_path, timeout=400)
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


def test_the_plan_says_what_every_job_is(tmp_path: Path) -> None:
    """Common and own values together are the whole configuration; swept keys have their values, groups their option."""
    arguments = ["clip=none,norm", "clip.max=0.5,1.0", "seed=1,2", "experiment=digits,lstm_text"]
    jobs, configs = planned(*arguments)
    plan, _ = sweep.plan(composer(), composer().compose(arguments, multirun=True), arguments)
    plan.write(tmp_path)
    read = read_plan(tmp_path)
    assert read is not None
    assert read == plan
    for job, config in zip(read.jobs, configs, strict=True):
        whole = {key: value for key, value in flat(config).items() if not key.startswith("sweep.")}
        assert read.common | job.values == whole
        assert not set(read.common) & set(job.values)
    assert jobs[0].swept == {"clip": "none", "clip.max": None, "seed": 1, "experiment": "digits"}
    assert jobs[-1].swept == {"clip": "norm", "clip.max": 1.0, "seed": 2, "experiment": "lstm_text"}


@pytest.mark.parametrize("name", ["plain", "a b", "it's", "a\\b", "a\\'b\\"])
def test_a_folder_is_handed_to_hydra_as_it_is_called(name: str, tmp_path: Path) -> None:
    where = tmp_path / name
    assert cli._at(composer(), [], str(where)).hydra.sweep.dir == str(where)
