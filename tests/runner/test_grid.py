"""The points of a sweep, composed and checked before the first job starts; its folder and settings."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from runner.compose import Composer
from runner.errors import UserError
from runner.sweeps import grid, prepare
from runner.sweeps.grid import Points, run_values
from runner.sweeps.results import Job, Plan, read_plan
from runner.sweeps.space import axes
from tests.runner.support import PROJECT, compose, composer, refused


def planned(*arguments: str) -> Plan:
    space = axes(composer(), arguments)
    return grid.plan(composer(), space, Points(composer(), space), arguments)


def jobs(*arguments: str) -> list[Job]:
    return planned(*arguments).jobs


def test_the_last_argument_changes_fastest() -> None:
    found = jobs("clip=none,norm", "clip.max=0.5,1.0", "seed=range(1,4)", "steps=7")
    expected = [["clip=" + c, *limit, f"seed={s}", "steps=7"] for c, m, s in
                product(["none", "norm"], ["0.5", "1.0"], [1, 2, 3])
                for limit in [["clip.max=" + m] if c == "norm" else []]]  # fmt: skip
    assert [job.overrides for job in found] == expected
    assert [job.number for job in found] == list(range(12))


def test_a_glob_selects_all_options_that_match() -> None:
    assert [job.swept["clip"] for job in jobs("clip=glob(*clip)")] == ["autoclip", "zclip"]


def test_points_are_what_hydra_composes() -> None:
    arguments = ["schedule=constant,linear", "lr=0.1,0.2", "experiment=calm", "clip.include=[weight],[]",
                 "++log.every=3", "log={gradient_norms: true}"]  # fmt: skip
    plan = planned(*arguments)
    assert len(plan.jobs) == 8
    for job in plan.jobs:
        assert plan.common | job.values == run_values(compose(*job.overrides))


def test_points_with_the_same_options_share_one_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[tuple[str, ...]] = []
    real = Composer.compose
    monkeypatch.setattr(Composer, "compose", lambda self, given: composed.append(tuple(given)) or real(self, given))
    assert len(jobs("clip=norm,value", "seed=range(0,20)", "lr=0.1,0.2")) == 80
    assert composed == [("clip=norm",), ("clip=value",)]


def test_duplicates_are_marked() -> None:
    found = jobs("clip=none,norm", "clip.max=0.5,1.0", "seed=1,2")
    assert [job.duplicate_of for job in found] == [None, None, 0, 1, None, None, None, None]
    assert [job.config == found[0].config for job in found] == [True, False, True] + [False] * 5
    assert [job.duplicate_of for job in jobs("seed=1,2,1")] == [None, None, 0]


def test_a_key_is_dropped_from_points_whose_option_lacks_it() -> None:
    """Whether it is fixed or swept; the points without it are duplicates, of which one runs."""
    found = jobs("clip=norm,zclip", "clip.threshold=2,3")
    assert [job.point for job in found] == [
        "clip=norm", "clip=norm", "clip=zclip clip.threshold=2", "clip=zclip clip.threshold=3"]  # fmt: skip
    assert [job.duplicate_of for job in found] == [None, 0, None, None]
    assert [job.swept["clip.threshold"] for job in found] == [None, None, 2.0, 3.0]
    assert [job.overrides for job in jobs("schedule=constant,linear", "schedule.final=0.5")] == [
        ["schedule=constant"], ["schedule=linear", "schedule.final=0.5"]]  # fmt: skip


def test_a_key_that_no_swept_option_has_is_an_error() -> None:
    with pytest.raises(UserError, match=r"clip\.threshold=3: no such key in clip=norm; it belongs to .*clip=zclip"):
        jobs("clip=norm,value", "clip.threshold=3")


def test_an_option_without_a_swept_key_gets_one_job() -> None:
    """Swept, fixed, with ++, and beside another swept key."""
    once = [["schedule=constant"], ["schedule=linear", "schedule.final=0.2"], ["schedule=linear", "schedule.final=0.3"]]
    assert to_run("schedule=constant,linear", "schedule.final=0.2,0.3") == once
    added = to_run("schedule=constant,linear", "++schedule.final=0.2,0.3")
    assert added == [[each.replace("schedule.final", "++schedule.final") for each in job] for job in once]
    assert to_run("++schedule.final=0.5", "schedule=linear,constant") == [
        ["++schedule.final=0.5", "schedule=linear"], ["schedule=constant"]]  # fmt: skip
    assert len(to_run("schedule=constant,linear", "schedule.final=0.2,0.3", "lr=1,2,3")) == 3 + 6


def to_run(*arguments: str) -> list[list[str]]:
    """The overrides of the jobs that are no duplicates."""
    return [job.overrides for job in jobs(*arguments) if job.duplicate_of is None]


CHAIN = """
defaults: [/schema/clip/chain@_here_, /clip@links.elements: value, /clip@links.whole: norm, _self_]
name: chain
"""


def test_a_nested_key_is_dropped_from_points_whose_option_lacks_it(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "chain.yaml").write_text(CHAIN)
    more = f"hydra.searchpath=[file://{tmp_path}]"
    assert to_run(more, "clip=none,chain", "clip.links.whole.max=0.5,1") == [
        [more, "clip=none"], [more, "clip=chain", "clip.links.whole.max=0.5"],
        [more, "clip=chain", "clip.links.whole.max=1"]]  # fmt: skip
    with pytest.raises(UserError, match=r"^clip\.links\.whole\.threshold=2: no such key in .*\(job 1: .*clip=chain"):
        jobs(more, "clip=none,chain", "clip.links.whole.threshold=2")


@pytest.mark.parametrize("options", ["constant,linear", "linear,constant"])
@pytest.mark.parametrize("argument", ["+schedule.final=0.5", "+schedule.final=0.2,0.5", "~schedule.final"])
def test_a_key_cannot_be_added_or_deleted(options: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that exists cannot be added with one +, and no key can be deleted; whichever option comes first."""
    line = refused(["-m", f"schedule={options}", argument], capsys)
    assert "schedule.final" in line
    assert argument.partition("=")[0] in line


@pytest.mark.parametrize("key", ["schedule.final=0.2,0.3", "schedule.final=0.2", "++schedule.final=0.2,0.3"])
def test_a_key_that_no_chosen_option_has_is_an_error(key: str) -> None:
    line = r"^schedule\.final=0\.2: no such key in schedule=constant; it belongs to schedule=linear \(job 0: "
    with pytest.raises(UserError, match=line):
        jobs("schedule=constant", key)


FOLDERS = [
    (["hydra.sweep.dir='a b'"], "a b"),
    (["hydra.sweep.dir='[x], y=z'"], "[x], y=z"),
    (["hydra.sweep.dir='x~/$x'"], "x~/$x"),
    (["hydra.sweep.dir='swept_${seed}'", "seed=3"], "swept_3"),
    (["seed=3", "hydra.sweep.dir='swept_${seed}_${clip.name}'", "clip=value", "lr=1,2"], "swept_3_value"),
    (["hydra.sweep.dir=x", "hydra.sweep.subdir='${hydra.job.num}'"], "x"),
]


@pytest.mark.parametrize(("arguments", "folder"), FOLDERS, ids=[" ".join(arguments) for arguments, _ in FOLDERS])
def test_the_folder_of_a_sweep(arguments: list[str], folder: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare.new(composer(), arguments).folder == tmp_path / folder
    assert list(tmp_path.iterdir()) == []


REFUSED_FOLDERS = [
    ("hydra.sweep.dir='swept_${seed}' seed=1,2", "hydra.sweep.dir: is not the same for all jobs (swept_1, swept_2)"),
    ("hydra.sweep.dir=${clip.name} clip=none,norm", "hydra.sweep.dir: is not the same for all jobs (none, norm)"),
    ("hydra.sweep.dir=${nokey}", "hydra.sweep.dir: Interpolation key 'nokey' not found"),
    ("hydra.sweep.dir=${oc.env:NOPE}", "hydra.sweep.dir: KeyError raised while resolving interpolation"),
    ("hydra.sweep.dir=''", "hydra.sweep.dir='': names no folder"),
    ("hydra.sweep.dir=null", "hydra.sweep.dir: "),
    ("hydra.sweep.dir=[a]", "hydra.sweep.dir: "),
    ("hydra.sweep.dir=a,b", "hydra.sweep.dir=a,b: a setting of the whole sweep has one value"),
    ("hydra.sweep.dir=old", "hydra.sweep.dir=old: holds a sweep already"),
    ("hydra.sweep.dir=run", "hydra.sweep.dir=run: holds a run already"),
    ("hydra.sweep.dir=file", "hydra.sweep.dir=file: cannot be created"),
    ("hydra.sweep.dir=file/x", "hydra.sweep.dir=file/x: cannot be created"),
    ("hydra.sweep.dir=jobs", "hydra.sweep.dir=jobs: holds the folder of a job already: 0"),
    ("hydra.sweep.dir=dangling", "hydra.sweep.dir=dangling: cannot be created: File exists"),
    (f"hydra.sweep.dir={'x' * 300}", "File name too long"),
    ("hydra.sweep.subdir=x", "hydra.sweep.subdir=x: a job's folder is its number; leave this out"),
    (
        "hydra.sweep.subdir='a [${seed}]'",
        "hydra.sweep.subdir=a [${seed}]: a job's folder is its number; leave this out",
    ),
    ("hydra.sweep.subdir=null", "hydra.sweep.subdir: "),
]


@pytest.mark.parametrize(("arguments", "line"), REFUSED_FOLDERS, ids=[arguments for arguments, _ in REFUSED_FOLDERS])
def test_an_invalid_folder_of_a_sweep_is_refused(
    arguments: str, line: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old/sweep.json", "run/config.yaml", "jobs/0/status.json", "file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    first, *others = arguments.rsplit(" ", 1) if "=" in arguments.rpartition(" ")[2] else [arguments]
    assert line in refused(["-m", first, *others, "lr=1,2"], capsys)
    assert sorted(tmp_path.rglob("*")) == before


UNUSED = [
    ("sweep.trials=5", "sweep.trials=5: has no effect with sweep.method=grid"),
    ("sweep.hours=2", "sweep.hours=2.0: has no effect with sweep.method=grid"),
    ("sweep.slurm.minutes=5", "sweep.slurm.minutes=5: has no effect with sweep.launcher=local"),
    ("sweep.slurm.cluster=local", "sweep.slurm.cluster=local: has no effect with sweep.launcher=local"),
    ("sweep.slurm={partition: gpu}", "sweep.slurm.partition=gpu: has no effect with sweep.launcher=local"),
    ("sweep.method=optuna sweep.slurm.gpus=1", "sweep.slurm.gpus=1: has no effect with sweep.launcher=local"),
    ("experiment=long", "sweep.trials=99: has no effect with sweep.method=grid"),
]


@pytest.mark.parametrize(("arguments", "line"), UNUSED, ids=[arguments for arguments, _ in UNUSED])
def test_a_setting_without_effect_is_refused(
    arguments: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from a file. The default value passes, and so does what the method and launcher read."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "long.yaml").write_text("# @package _global_\nsweep: {trials: 99}\n")
    first, *others = [arguments] if "{" in arguments else arguments.split()
    assert refused(["-m", f"hydra.searchpath=[file://{tmp_path}]", "seed=1,2", first, *others], capsys) == line


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep.trials=30", "sweep.hours=null", "sweep.slurm.minutes=1440", "sweep.slurm.cluster=slurm"],
        ["sweep.method=optuna", "sweep.trials=5", "sweep.hours=2"],
        ["sweep.launcher=slurm", "sweep.slurm.minutes=5", "sweep.slurm.cluster=local"],
    ],
)
def test_settings_that_have_an_effect_are_accepted(arguments: list[str]) -> None:
    prepare.new(composer(), ["seed=1,2", *arguments])


def test_a_resumed_sweep_may_have_another_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the cluster stay in its plan; only those of the new command line have to be read."""
    monkeypatch.chdir(tmp_path)
    planned = prepare.new(composer(), ["seed=1,2", "sweep.launcher=slurm", "sweep.slurm.minutes=5"])
    planned.folder.mkdir(parents=True)
    planned.plan.write(planned.folder)
    resumed = prepare.resumed(composer(), str(planned.folder), ["sweep.launcher=local"])
    assert (resumed.settings.launcher, resumed.settings.slurm.minutes) == ("local", 5)
    with pytest.raises(UserError, match=r"^sweep\.trials=5: has no effect with sweep\.method=grid$"):
        prepare.resumed(composer(), str(planned.folder), ["sweep.trials=5"])


def test_settings_of_the_sweep_are_not_passed_to_jobs() -> None:
    (job,) = jobs("sweep.jobs=4", "hydra.sweep.dir=x", "hydra.verbose=true", "seed=3")
    assert job.overrides == ["hydra.verbose=true", "seed=3"]


def test_a_path_is_made_absolute_before_the_sweep_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the jobs run, outputs/latest points to the sweep itself."""
    (tmp_path / "first").mkdir()
    (tmp_path / "latest").symlink_to("first")
    monkeypatch.chdir(tmp_path)
    one, two = f"initial={tmp_path}/first/one.txt", f"initial={tmp_path}/two.txt"
    assert jobs("initial=latest/one.txt")[0].overrides == [one]
    assert [job.overrides for job in jobs("initial=latest/one.txt,two.txt,null")] == [[one], [two], ["initial=null"]]


def test_values_swept_in_a_file_under_hydra_sweeper_params(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "grid.yaml"
    file.write_text("# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 1,-2\n      clip.max: 3,4\n")
    line = refused(["-m", f"hydra.searchpath=[file://{tmp_path}]", "experiment=grid"], capsys)
    assert line.startswith("seed=-2: must be a whole number")
    assert "job 2: seed=-2 clip.max=3" in line
    file.write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    line = refused([f"hydra.searchpath=[file://{tmp_path}]", "experiment=grid"], capsys)
    assert line == "hydra.mode=MULTIRUN: -m makes a sweep; leave this out of the file"


def test_values_keep_their_quotes() -> None:
    """Without quotes, text that looks like a number would become a number."""
    found = jobs("clip.include=['1'],['2']")
    assert [job.overrides for job in found] == [["clip.include=['1']"], ["clip.include=['2']"]]
    assert [job.swept["clip.include"] for job in found] == [["1"], ["2"]]


def test_the_first_invalid_point_is_named() -> None:
    with pytest.raises(UserError, match=r"clip\.max=-1: .* \(job 2: clip\.max=-1 seed=1\)"):
        planned("clip.max=1,-1", "seed=1,2")


def test_a_setting_of_the_sweep_cannot_be_swept() -> None:
    with pytest.raises(UserError, match=r"^sweep\.jobs=1,2: a setting of the whole sweep has one value$"):
        planned("seed=1,2", "sweep.jobs=1,2")


def test_the_plan_holds_the_configuration_of_every_job(tmp_path: Path) -> None:
    """`common` and `values` together are the whole configuration; `swept` has values of keys and options of groups."""
    plan = planned("clip=none,norm", "clip.max=0.5,1.0", "seed=2", "experiment=calm,wild")
    plan.write(tmp_path)
    read = read_plan(tmp_path)
    assert read == plan
    for job in plan.jobs:
        assert plan.common | job.values == run_values(compose(*job.overrides))
        assert not set(plan.common) & set(job.values)
    assert plan.jobs[0].swept == {"clip": "none", "clip.max": None, "experiment": "calm"}
    assert plan.jobs[-1].swept == {"clip": "norm", "clip.max": 1.0, "experiment": "wild"}


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"jobs": 3}', '{"jobs": [{"number": 1}]}', "\0\xff"])
def test_a_plan_that_cannot_be_read_is_none(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(damaged)
    assert read_plan(tmp_path) is None


def test_options_are_those_of_the_project() -> None:
    assert Composer(PROJECT).options()["clip"] == ["autoclip", "none", "norm", "value", "zclip"]
