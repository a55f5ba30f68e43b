"""The checks before a run: each user error is one line with exit status 2, and no folder is created."""

import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gradclip import Chain, ClipByNorm
from runner.cli import preflight as cli
from runner.compose import Composer
from runner.config import Log
from runner.errors import UserError, explain
from tests.runner.support import PROJECT, TRAIN, program, real_program, refused
from tests.runner.toy.toy import Toy
from tests.support import ENV, ROOT

# The arguments, and a part of the one line: the key, the value, what is allowed, the nearest known name.
USER_ERRORS = [
    ("clip=nrom", "clip=nrom: no such option; did you mean clip=norm? There are autoclip, none, norm, value, zclip"),
    ("schedule=null", "schedule=null: no such option; there are constant, linear"),
    ("clp=norm", "clp=norm: no such key; did you mean clip?"),
    ("clip.maks=1", "clip.maks=1: no such key in clip=norm; did you mean clip.max?"),
    ("max=1", "max=1: no such key; did you mean clip.max?"),
    ("schedule.final=0.5", "schedule.final=0.5: no such key in schedule=constant; it belongs to schedule=linear"),
    ("+unknown=1", "unknown=1: no such key; there are clip, steps, seed, log,"),
    ("+clip=value", "+clip=value: the group has an option already; write clip=value"),
    ("clip.max=-1", "clip.max=-1: must be a number above 0, or inf"),
    ("steps=1.5", "steps=1.5: must be a whole number of at least 1"),
    ("log=3", "log=3: must be given by its keys, log.…"),
    ("evaluate_every=7", "evaluate_every=7: is more than steps=6"),
    ("target=${nope}", "target: Interpolation key 'nope' not found"),
    ("~seed", "seed: has no value"),
    ("~clip", "clip: has no value; choose one of adagc, agc,"),
    ("initial=é", "initial=é: cannot be read; put the value in quotes of its own: \"initial='é'\""),
    ("initial=~/x", "initial=~/x: cannot be read; put the value in quotes of its own: \"initial='~/x'\""),
    ("hydra.run.dir=2024_01", "number 202401; put the value in quotes of its own: \"hydra.run.dir='2024_01'\""),
    ("initial=1_000", "initial=1_000: is read as the number 1000; put the value in quotes"),
    ("resume=1e3", "resume=1e3: is read as the number 1000.0; put the value in quotes"),
    ("-m seed=1,2 hydra.sweep.dir=1_0", "hydra.sweep.dir=1_0: is read as the number 10; put the value in quotes"),
    ("hydra.run.dir='~/x'", "hydra.run.dir=~/x: Hydra does not expand ~; write /"),
    ("-m seed=1,2 hydra.sweep.dir='~/x'", "hydra.sweep.dir=~/x: Hydra does not expand ~; write /"),
    ("resume='~/no_such_run'", "resume=~/no_such_run: there is no folder /"),
    ("steps", "steps: an override is key=value, and a flag begins with -"),
    ("seed=1,2", "seed=1,2: several values are a sweep: add -m; a list is written seed=[1,2]"),
    ("-m seed=1,-1", "seed=-1: must be a whole number of at least 0 and at most 4,294,967,295 (job 1: seed=-1)"),
    ("-m seed=range(3,1)", "seed=range(3,1): there is nothing to sweep over"),
    ("-m lr=interval(0,1)", "lr=interval(0,1): a grid takes lists, choice(…) and range(…); sweep.method=optuna sear"),
    ("-m seed=1,2 hydra.sweep.dir=swept", "hydra.sweep.dir=swept: holds a sweep already"),
    ("-m seed=1,2 --cfg job", "--multirun and --cfg: only one of them at a time"),
    ("-m seed=1,2 hydra.sweep.subdir=x", "hydra.sweep.subdir=x: a job's folder is its number; leave this out"),
    ("-m sweep.jobs=0 seed=1,2", "sweep.jobs=0: must be a whole number of at least 1"),
    ("hydra/launcher=joblib", "hydra/launcher=joblib: not used here; sweep.jobs=4 runs four jobs at once, and"),
    ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs=2: not used here; sweep.jobs=4 runs four"),
    ("-m hydra/sweeper=optuna seed=1,2", "hydra/sweeper=optuna: not used here; sweep.method=grid or sweep.method=op"),
    ("hydra.mode=MULTIRUN", "hydra.mode=MULTIRUN: -m makes a sweep; leave this out"),
    ("hydra.searchpath=[file://more]", "hydra.searchpath=[file://more]: no such folder of configurations: file://more"),
    ("--config-dir=more", "--config-dir: not supported: 'hydra.searchpath=[file://FOLDER]' adds a folder"),
    ("--config-path=more", "--config-path: not supported: conf/ is the folder"),
    ("--experimental-rerun=x", "--experimental-rerun: not supported: it runs code from a file"),
    ("resume=run,other", "resume=run,other: one run is resumed at a time"),
    ("seed=" + 5000 * "1", "cannot be composed: ValueError: Exceeds the limit"),
    ("lr=" + 500 * "1", "cannot be composed: OverflowError: int too large to convert to float full_key: lr"),
    ("sweep.dry_run=true", "sweep.dry_run=true: there is no sweep; add -m"),
    ("sweep.jobs=2", "sweep.jobs=2: there is no sweep; add -m"),
    ("-m seed=1,2 hydra.sweep.dir=file/x", "hydra.sweep.dir=file/x: cannot be created, since"),
    ("-m seed=1,2 sweep.command=nope", "sweep.command=nope: there is no such program"),
    ("-m ++lr=interval(1,2) sweep.method=optuna", "++lr=interval(1,2): an interval is given without +"),
    ("sweep.resume=swept,taken", "sweep.resume=swept,taken: one sweep is resumed at a time"),
    ("sweep.resume=taken", "sweep.resume=taken: not the folder of a sweep; it has no sweep.json that can be read"),
    ("hydra.run.dir=taken", "hydra.run.dir=taken: holds a run already"),
    ("hydra.run.dir=file/run", "cannot be created, since"),
    ("resume=nope", "resume=nope: there is no folder nope"),
    ("resume=" + 400 * "x", "File name too long"),
    ("hydra.run.dir=" + 400 * "x", "File name too long"),
    ("resume=latest", "resume=latest: there is no folder outputs/latest"),
    ("--cfg job --package=nope", "--package=nope: no such part of the configuration"),
    ("--frobnicate 3", "--frobnicate: no such flag; a setting has no dashes: frobnicate=3"),
    ("--config-name=nope", "Cannot find primary config 'nope'"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "file").touch()
    for folder, name in (("taken", "status.json"), ("swept", "sweep.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


@pytest.mark.parametrize(("arguments", "line"), USER_ERRORS, ids=[arguments[:40] for arguments, _ in USER_ERRORS])
def test_a_user_error_is_one_line(arguments: str, line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refused(arguments.split(), capsys)
    assert sorted(path.name for path in here.iterdir()) == ["file", "swept", "taken"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("stesp: 3", "stesp: no such key; did you mean steps?"),
        ("clip:\n  max: none", "clip.max=none: must be a number above 0"),
        ("clip: [1", "typo.yaml, line 3: not YAML"),
        ("defaults:\n  - override /clip: nrom", "clip=nrom: no such option; did you mean clip=norm?"),
        (
            "clip: value",
            "experiment/typo.yaml: clip: value: an option is chosen in the defaults list: defaults: [overri",
        ),
        ("schedule: linear", "in the defaults list: defaults: [override /schedule: linear]"),
        ("clip: nrom", "experiment/typo.yaml: clip=nrom: no such option; did you mean clip=norm?"),
        ("clip: null", "clip: has no value; choose one of adagc, agc,"),
        ("clip: [value]", "experiment/typo.yaml: clip=['value']: no such option; did you mean clip=value?"),
        ("log: 3", "experiment/typo.yaml: log: 3: must be given by its keys"),
        ("log: null", "log: must not be null"),
        ("sweep: {slurm: 4}", "experiment/typo.yaml: sweep.slurm: 4: must be given by its keys"),
        ("steps: null", "steps=null: must be a whole number of at least 1"),
        (
            "experiment: calm",
            "experiment=typo: is chosen on the command line, and its file must begin with # @package",
        ),
        ("defaults:\n  - override /hydra/launcher: joblib", "hydra/launcher=joblib: not used here; sweep.jobs=4"),
        ("defaults:\n  - override /hydra/sweeper: optuna", "hydra/sweeper=optuna: not used here; sweep.method=grid or"),
        ("- 3", "Cannot merge DictConfig with ListConfig"),
        ("lr: " + "[" * 5000, "cannot be composed: RecursionError"),
        ("\0", "typo.yaml: not YAML: special characters are not allowed"),
    ],
)
def test_a_user_error_in_a_file_is_one_line(
    content: str, line: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "more" / "experiment").mkdir(parents=True)
    (here / "more" / "experiment" / "typo.yaml").write_text(f"# @package _global_\n{content}\n")
    assert line in refused(["hydra.searchpath=[file://more]", "experiment=typo"], capsys)


@pytest.mark.parametrize("form", ["{key}=2", "+{key}=2", "-m seed=1,2 {key}=2", "-m {key}=2,3", "experiment=old"])
@pytest.mark.parametrize(("owner", "key"), [(Toy, "parts"), (Log, "log.parts"), (ClipByNorm, "clip.parts")])
def test_a_removed_key_is_answered_with_what_replaces_it(
    owner: type[Any],
    key: str,
    form: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For keys of the root, of a node and of an option, on the command line and in a file."""
    monkeypatch.setattr(owner, "removed", {"parts": "pieces=2 does the same"})
    (here / "more" / "experiment").mkdir(parents=True)
    content = "parts: 2" if owner is Toy else f"{key.partition('.')[0]}:\n  parts: 2"
    (here / "more" / "experiment" / "old.yaml").write_text(f"# @package _global_\n{content}\n")
    line = refused(["hydra.searchpath=[file://more]", *form.format(key=key).split()], capsys)
    option = " in clip=norm" if owner is ClipByNorm else ""
    assert re.match(rf"{re.escape(key)}(=2)?: no such key{option}; pieces=2 does the same( \(.*\))?$", line)


CHAIN = """
defaults: [/schema/clip/chain@_here_, /clip@links.elements: value, /clip@links.whole: norm, _self_]
name: chain
"""
GLOBAL = "# @package _global_\n"
NESTED = [
    (
        "experiment",
        GLOBAL + "defaults: [override /clip: chain]\nclip: {links: {whole: value}}",
        "clip.links.whole: value: an option is chosen in the defaults list: "
        "defaults: [override /clip@clip.links.whole: value]",
        GLOBAL + "defaults: [override /clip: chain, override /clip@clip.links.whole: value]",
    ),
    (
        "clip",
        CHAIN + "links: {whole: value}",
        "links.whole: value: an option is chosen in the defaults list: defaults: [/clip@links.whole: value]",
        CHAIN.replace("/clip@links.whole: norm", "/clip@links.whole: value"),
    ),
]


@pytest.mark.parametrize(("folder", "content", "advice", "corrected"), NESTED, ids=[folder for folder, *_ in NESTED])
def test_an_option_as_the_value_of_a_nested_key(
    folder: str, content: str, advice: str, corrected: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice is an entry for that key, and a file with the entry composes."""
    (here / "more" / "experiment").mkdir(parents=True)
    (here / "more" / "clip").mkdir()
    (here / "more" / "clip" / "chain.yaml").write_text(CHAIN)
    (file := here / "more" / folder / "typo.yaml").write_text(content)
    arguments = ["hydra.searchpath=[file://more]", f"{folder}=typo"]
    assert refused(arguments, capsys) == f"{folder}/typo.yaml: {advice}"
    file.write_text(corrected)
    config = Composer(PROJECT).checked(arguments)
    assert isinstance(config.clip, Chain)
    assert config.clip.links["whole"].name == "value"


def test_a_nested_key_that_its_option_lacks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "more" / "clip").mkdir(parents=True)
    (here / "more" / "clip" / "chain.yaml").write_text(CHAIN)
    line = refused(["hydra.searchpath=[file://more]", "clip=chain", "clip.links.whole.threshold=2"], capsys)
    assert line.startswith("clip.links.whole.threshold=2: no such key in clip@clip.links.whole=norm; ")
    assert line.endswith("it belongs to clip@clip.links.whole=zclip")


def test_an_option_as_a_value_in_the_primary_file(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its defaults list has entries without `override`."""
    conf = tmp_path_factory.mktemp("project") / "conf"
    shutil.copytree(PROJECT.conf, conf)
    (conf / "train.yaml").write_text((conf / "train.yaml").read_text() + "\nclip: value\n")
    project = replace(PROJECT, root=conf.parent)
    with pytest.raises(Exception, match="not a subclass") as error:
        Composer(project).compose([])
    assert explain(error.value, project).endswith("train.yaml: clip: value: an option is chosen in the defaults list: "
                                                  "defaults: [clip: value]")  # fmt: skip


def test_an_option_without_its_schema_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "more" / "clip").mkdir(parents=True)
    (here / "more" / "clip" / "mine.yaml").write_text("name: norm\nmax: 1.0\n")
    line = refused(["hydra.searchpath=[file://more]", "clip=mine", "--cfg", "job"], capsys)
    assert line.endswith("conf/clip/mine.yaml must begin with defaults: [/schema/clip/mine@_here_, _self_]")


def test_a_file_that_is_not_text_is_named(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    conf = tmp_path_factory.mktemp("project") / "conf"
    shutil.copytree(PROJECT.conf, conf)
    (conf / "clip" / "norm.yaml").write_bytes(b"\xff\xfe" + 100 * b"x")
    composer = Composer(replace(PROJECT, root=conf.parent))
    with pytest.raises(UserError, match=r"clip/norm\.yaml: not UTF-8: "):
        composer.compose([])


@pytest.mark.parametrize("parent", ["hydra", "omegaconf"])
def test_a_bug_is_a_traceback(
    parent: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the schema's own code, also below a folder named like a library."""
    (here / parent).mkdir()
    (here / parent / "bug.py").write_text("def check(config):\n    raise ValueError('a bug')\n")
    module = runpy.run_path(str(here / parent / "bug.py"))
    monkeypatch.setattr(PROJECT.schema, "__post_init__", module["check"])
    with pytest.raises(ValueError, match="a bug"):
        cli.preflight(PROJECT, ["train.py"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [ValueError, AttributeError, AssertionError, OSError])
def test_a_bug_beside_hydras_composition_is_a_traceback(
    error: type[Exception], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra raises errors of these types for some values; only those of its own calls become one line."""

    def fail(*arguments: object) -> None:
        raise error("a bug")

    for name in ("check_options", "check_hydra_settings"):
        with monkeypatch.context() as patch:
            patch.setattr(f"runner.compose.{name}", fail)
            with pytest.raises(error, match="a bug"):
                cli.preflight(PROJECT, ["train.py"])


def test_several_processes_are_refused_before_a_folder_exists(tmp_path: Path) -> None:
    """torchrun starts several, each of which would train the same run."""
    done = program(cwd=tmp_path, WORLD_SIZE="4", RANK="1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: WORLD_SIZE=4: one process trains a model here")
    assert list(tmp_path.iterdir()) == []
    assert program(cwd=tmp_path, WORLD_SIZE="1").returncode == 0


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    command = f"{sys.executable} {TRAIN} --cfg job | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_hydra_full_error_shows_the_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="no such option"):
        cli.preflight(PROJECT, ["train.py", "clip=nrom"])


def test_help_lists_groups_options_and_every_key(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.preflight(PROJECT, ["train.py", "clip=value", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert re.search(r"clip +autoclip  none  norm  \[value\]  zclip", text)
    assert re.search(r"clip\.max=0\.02 +the largest magnitude that an element keeps \(a number above 0, or inf\)", text)
    assert re.search(r"target=1\.0 +the value of all weights", text)


def test_the_program_itself(tmp_path: Path) -> None:
    done = real_program("clip=nrom", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: clip=nrom: no such option")
    assert list(tmp_path.iterdir()) == []


# -- without torch

TORCH_FREE = [["--help"], ["--cfg", "job"], ["clip.maks=1"], ["clip=nrom"], ["clip.max=-1"], ["-m", "seed=1,-1"],
              ["-m", "seed=1,2", "sweep.dry_run=true"], ["resume=nope"], ["-sc", "query=bash"]]  # fmt: skip
PROGRAM = f"""
import io, os, runpy, sys
from contextlib import redirect_stderr, redirect_stdout
os.environ["COMP_LINE"], os.environ["COMP_POINT"] = "python train.py clip=n", "99"
for arguments in {TORCH_FREE!r}:
    sys.argv = ["train.py", *arguments]
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()):
        try:
            runpy.run_path({str(TRAIN)!r}, run_name="__main__")
            code = None
        except SystemExit as end:
            code = end.code
    print(code, *sorted({{"torch", "optuna"}} & set(sys.modules)))
print(printed.getvalue().split())
"""


def python(code: str, cwd: Path) -> str:
    environment = ENV | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_checks_import_neither_torch_nor_optuna(tmp_path: Path) -> None:
    code = "import sys, runner.cli.preflight, runner.sweeps.grid, runner.config, tests.runner.toy.toy\n"
    assert python(code + "print({'torch', 'optuna'} & set(sys.modules))", tmp_path) == "set()\n"


def test_errors_and_help_are_printed_without_torch(tmp_path: Path) -> None:
    *codes, completed = python(PROGRAM, tmp_path).splitlines()
    assert codes == ["0", "0", "2", "2", "2", "2", "0", "2", "None"]
    assert completed == "['clip=none', 'clip=norm']"
    assert list(tmp_path.iterdir()) == []
