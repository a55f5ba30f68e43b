"""Sweeps: the whole grid checked and marked before its first job."""

from itertools import product
from pathlib import Path

import pytest

from runner.cli import preflight as cli
from runner.compose import Composer
from runner.config import RunConfig
from runner.errors import UserError
from runner.sweeps import grid
from runner.sweeps.results import Job, Plan, read_plan
from tests.runner.support import PROJECT, compose, composer, files, refused


def planned(*arguments: str) -> Plan:
    given = composer().quoted(list(arguments))
    return grid.plan(composer(), composer().compose(given, multirun=True), given)


def jobs(*arguments: str) -> list[Job]:
    return planned(*arguments).jobs


def values(config: RunConfig) -> dict[str, object]:
    return grid.run_values(config)


def test_the_grid_is_expanded_in_hydras_order() -> None:
    found = jobs("clip=none,norm", "clip.max=0.5,1.0", "seed=range(1,4)", "steps=7")
    expected = [["clip=" + c, "clip.max=" + m, f"seed={s}", "steps=7"] for c, m, s in
                product(["none", "norm"], ["0.5", "1.0"], [1, 2, 3])]  # fmt: skip
    assert [job.overrides for job in found] == expected
    assert [job.number for job in found] == list(range(12))


def test_the_fast_grid_composes_what_hydra_composes() -> None:
    arguments = ["schedule=constant,linear", "lr=0.1,0.2", "experiment=calm", "clip.include=[weight],[]",
                 "++log.every=3", "log={flow: true}"]  # fmt: skip
    plan = planned(*arguments)
    assert len(plan.jobs) == 8
    for job in plan.jobs:
        assert plan.common | job.values == values(compose(*job.overrides))


def test_duplicates_are_marked() -> None:
    found = jobs("clip=none,norm", "clip.max=0.5,1.0", "seed=1,2")
    assert [job.duplicate_of for job in found] == [None, None, 0, 1, None, None, None, None]
    assert [job.config == found[0].config for job in found] == [True, False, True] + [False] * 5
    assert [job.duplicate_of for job in jobs("seed=1,2,1")] == [None, None, 0]


def test_a_large_grid() -> None:
    found = jobs("clip=none,norm,value", "clip.max=0.1,0.2,0.5,1,2,5,10", "seed=range(0,4)")
    assert len(found) == 84
    assert sum(job.duplicate_of is None for job in found) == 4 + 56
    assert found[-1].swept == {"clip": "value", "clip.max": 10.0, "seed": 3}


def test_the_sweepers_own_parameters_count(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "grid.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 1,2\n      clip.max: 3,4\n"
    )
    own = Composer(PROJECT, extra=tmp_path)
    plan = grid.plan(own, own.compose(["experiment=grid"], multirun=True), ["steps=7"])
    assert [job.overrides for job in plan.jobs] == [
        [f"seed={s}", f"clip.max={m}", "steps=7"] for s, m in product([1, 2], [3, 4])
    ]


def test_the_first_wrong_point_is_named() -> None:
    with pytest.raises(UserError, match=r"clip\.max=-1\.0: .* \(job 2: clip\.max=-1 seed=1\)"):
        planned("clip.max=1,-1", "seed=1,2")


def test_what_is_asked_of_the_whole_sweep_is_not_swept() -> None:
    with pytest.raises(UserError, match=r"^sweep\.dry_run=true,false: is asked of the whole sweep, and has one value$"):
        planned("seed=1,2", "sweep.dry_run=true,false")


def test_the_plan_says_what_every_job_is(tmp_path: Path) -> None:
    """Common and own values together are the whole configuration; swept keys have their values, groups their option."""
    plan = planned("clip=none,norm", "clip.max=0.5,1.0", "seed=2", "experiment=calm,wild")
    plan.write(tmp_path)
    read = read_plan(tmp_path)
    assert read == plan
    for job in plan.jobs:
        assert plan.common | job.values == values(compose(*job.overrides))
        assert not set(plan.common) & set(job.values)
    assert plan.jobs[0].swept == {"clip": "none", "clip.max": None, "experiment": "calm"}
    assert plan.jobs[-1].swept == {"clip": "norm", "clip.max": 1.0, "experiment": "wild"}


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"jobs": 3}', '{"jobs": [{"number": 1}]}', "\0\xff"])
def test_a_plan_that_cannot_be_read_is_none(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(damaged)
    assert read_plan(tmp_path) is None


@pytest.mark.parametrize("arguments", ["seed=1,2 target=3 -m", "seed=1,2 --multirun target=3", "-m target=3 seed=1,2"])
def test_flags_and_options_in_any_order_and_spelling(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = cli.preflight(PROJECT, ["train.py", *arguments.split()])
    assert sweep is not None
    (plan,) = (tmp_path / "outputs" / "sweeps").glob("*/sweep.json")
    assert list(files(tmp_path)) == [plan]
    read = read_plan(plan.parent)
    assert read is not None
    assert sorted(read.arguments) == ["seed=1,2", "target=3"]
    assert [job.overrides for job in read.jobs] == [job.overrides for job in sweep.plan.jobs]
    assert len(read.jobs) == 2


def test_a_sweep_asked_for_in_a_file_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "grid.yaml").write_text(
        '# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: "1,-2"\n'
    )
    line = refused(["--config-dir=more", "experiment=grid"], capsys)
    assert line.startswith("seed=-2: must be a whole number")
    assert "job 1: seed=-2" in line


@pytest.mark.parametrize("name", ["plain", "a b", "it's", "a\\b", "a\\'b\\"])
def test_a_folder_is_handed_to_hydra_as_it_is_called(name: str, tmp_path: Path) -> None:
    where = tmp_path / name
    assert cli._at(composer(), [], str(where)).hydra.sweep.dir == str(where)
