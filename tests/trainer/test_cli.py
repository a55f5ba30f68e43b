"""The command line: every user error is one line and exit status 2, without a folder and without torch."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from runner.cli import preflight as cli
from runner.errors import UserError
from tests.programs import run
from tests.support import ROOT
from tests.trainer.options import missing_options, option_names
from tests.trainer.support import compose, preflight_error
from trainer.project import PROJECT, composer
from trainer.run import execute_in_folder

pytestmark = pytest.mark.long

MODELS = ", ".join(option_names("model"))
SEARCHPATH = "hydra.searchpath=[file://more]"
EXPERIMENTS = ", ".join(sorted(path.stem for path in PROJECT.conf.glob("experiment/*.yaml")))

# The arguments, and a part of the error: the key, the value, the allowed values, the nearest known name.
USER_ERRORS = [
    ("clip=agc clip.exclude_last=false", "clip.exclude_last=false: no such key in clip=agc; clip.exclude says which"),
    ("clip=nrom", "clip=nrom: no such option; did you mean clip=norm? There are adagc, agc,"),
    ("model=transformer", f"model=transformer: no such option; there are {MODELS}"),
    ("clip=null", "clip=null: no such option; did you mean clip=none? There are adagc, agc,"),
    ("model=7", f"model=7: no such option; there are {MODELS}"),
    ("clip=[norm,value]", "clip=[norm,value]: no such option; there are adagc,"),
    ("experiment=nope", f"experiment=nope: no such option; there are {EXPERIMENTS}".rstrip()),
    ("hydra/launcher=nope", "hydra/launcher=nope: not used here; sweep.jobs=4 runs four jobs at once, and "
     "sweep.launcher=slurm runs them on a cluster"),
    ("-m hydra/launcher=joblib seed=1,2", "hydra/launcher=joblib: not used here; sweep.jobs=4 runs four jobs at once"),
    ("-m hydra.launcher.n_jobs=2 seed=1,2", "hydra.launcher.n_jobs=2: not used here; sweep.jobs=4 runs"),
    ("-m hydra/sweeper=optuna seed=1,2", "hydra/sweeper=optuna: not used here; sweep.method=grid or "
     "sweep.method=optuna says what -m does"),
    ("clp=norm", "clp=norm: no such key; did you mean clip?"),
    ("clip.maks=1", "clip.maks=1: no such key in clip=norm; did you mean clip.max?"),
    ("max=1", "max=1: no such key; did you mean clip.max?"),
    ("lr=0.1", "lr=0.1: no such key; did you mean optimizer.lr?"),
    ("warmup=100", "warmup=100: no such key; did you mean schedule.warmup?"),
    ("log_every=5", "log_every=5: no such key; did you mean log.every?"),
    ("max_norm=1", "max_norm=1: no such key; it is clip.max here"),
    ("epochs=3", "epochs=3: no such key; it is steps here"),
    ("learning_rate=1", "learning_rate=1: no such key; it is optimizer.lr here"),
    ("optimizer.learning_rate=1", "optimizer.learning_rate=1: no such key in optimizer=sgd; it is optimizer.lr here"),
    ("grad_clip=1", "grad_clip=1: no such key; it is clip.max here"),
    ("clip.value=1", "clip.value=1: no such key in clip=norm; there are clip.nonfinite,"),
    ("stesp=10", "stesp=10: no such key; did you mean steps?"),
    ("+unknown=1", "unknown=1: no such key; there are clip, steps,"),
    ("+clip.maks=1", "clip.maks=1: no such key in clip=norm; did you mean clip.max?"),
    ("++clip.maks=1", "clip.maks=1: no such key in clip=norm; did you mean clip.max?"),
    ("+clip=value", "+clip=value: the group has an option already; write clip=value"),
    ("clip.max=abc", "clip.max=abc: must be a number above 0"),
    ("clip.max=nan", "clip.max=nan: must be a number above 0"),
    ("sweep=${steps}", "sweep=1500: must be given by its keys, sweep.…"),
    ("clip.max=-1", "clip.max=-1: must be a number above 0, or inf"),
    ("clip.max=0", "clip.max=0: must be a number above 0"),
    ("clip.max=true", "clip.max=true: must be a number above 0"),
    ("steps=null", "steps=null: must be a whole number of at least 1"),
    ("clip.max=null", "clip.max=null: must be a number above 0"),
    ("clip.max=", "clip.max=: must be a number above 0"),
    ("clip.max=[1]", "clip.max=[1]: must be a number above 0"),
    ("clip.max.x=1", "clip.max={}: must be a number above 0"),
    ("steps=1.5", "steps=1.5: must be a whole number of at least 1"),
    ("steps=0", "steps=0: must be a whole number of at least 1"),
    ("seed=-1", "seed=-1: must be a whole number of at least 0 and at most 4,294,967,295"),
    ("optimizer.lr=inf", "optimizer.lr=inf: must be a number above 0"),
    ("model.nonlinearity=sigmoid", "model.nonlinearity=sigmoid: must be tanh or relu"),
    ("clip.nonfinite=zro", "clip.nonfinite=zro: must be error, drop, zero or keep"),
    ("clip.scope=rows", "clip.scope=rows: must be model, group, layer, parameter or unit"),
    ("clip=drop clip.scope=layer", "clip.scope=layer: must be model for drop"),
    ("clip.schedule=linear", "clip.schedule=linear: must be constant unless max, final and over are given"),
    ("clip=chain clip.max=1", "clip.max=1: no such key in clip=chain; it is set in a link: clip.links.<label>.max"),
    ("clip=none clip.max=1", "clip.max=1: no such key in clip=none; clip=none has no limit; clip=norm clip.max=inf"),
    ("clip.final=0.1", "clip.final=0.1: must be null unless clip.schedule is linear or cosine"),
    ("clip=spike clip.max=1 clip.over=9", "clip.over=9: must be null unless clip.schedule is linear or cosine"),
    ("clip=chain clip.links.whole.nonfinite=drop", "clip.links.whole.nonfinite=drop: must be error, since clip.nonf"),
    ("clip=chain clip@clip.links.whole=chain", "clip.links.whole=chain: must be a policy other than chain"),
    ("clip=chain clip.links.whole.max=-1", "clip.links.whole.max=-1: must be a number above 0"),
    ("clip=chain clip.links.whole.maks=1", "clip.links.whole.maks=1: no such key"),
    ("clip=chain clip@clip.links.whole=agc clip.links.whole.exclude_last=true",
     "clip.links.whole.exclude_last=true: no such key in clip@clip.links.whole=agc; clip.exclude says which"),
    ("clip=chain clip@clip.links.whole=zclp", "clip=zclp: no such option; did you mean clip=zclip?"),
    ("clip.include=weight", "clip.include=weight: must be a list of patterns"),
    ("clip.name=value", "clip.name=value: must be norm, which the option itself sets"),
    ("log=3", "log=3: must be given by its keys, log.…"),
    ("clip.max=${nope}", "clip.max: Interpolation key 'nope' not found"),
    ("~clip.max", "~clip.max: this key cannot be deleted; give it a value"),
    ("~clip", "clip: has no value; choose one of adagc, agc,"),
    ("data.path=é", "data.path=é: cannot be read; put the value in quotes of its own: \"data.path='é'\""),
    ("data.path=a(b", "data.path=a(b: cannot be read; put the value in quotes of its own: \"data.path='a(b'\""),
    ("steps", "steps: an override is key=value, and a flag begins with -"),
    ("=3", "=3: an override is key=value, and a flag begins with -"),
    ("micro_batches=64", "micro_batches=64: must be at most data.batch_size=32, which it splits"),
    ("accumulate=2", "accumulate=2: no such key; micro_batches=2 splits each batch in two"),
    ("optimizer.nesterov=true", "optimizer.nesterov=true needs optimizer.momentum above 0"),
    ("schedule.warmup=9999", "schedule.warmup=9999 is longer than steps=1500"),
    ("device.precision=float16", "device.precision=float16 needs clip.nonfinite=drop"),
    ("clip.max=1,2", "clip.max=1,2: several values are a sweep: add -m; a list is written clip.max=[1,2]"),
    ("-m clip=none,norm clip.max=1,-1", "clip.max=-1: must be a number above 0, or inf (job 3: clip=norm clip.max=-1"),
    ("-m clip=norm,nrom", "clip=nrom: no such option; did you mean clip=norm?"),
    ("-m clip.maks=1,2", "clip.maks=1: no such key in clip=norm; did you mean clip.max? (job 0: clip.maks=1)"),
    ("-m clip.max=interval(0,1)", "clip.max=interval(0,1): a grid takes lists, choice(…) and range(…); sweep.method="),
    ("-m clip=7", "clip=7: no such option"),
    ("-m seed=shuffle(1,2)", "seed=shuffle(1,2): cannot be shuffled"),
    ("-m seed=range(3,1)", "seed=range(3,1): there is nothing to sweep over"),
    ("-m seed=1,2 hydra.sweep.subdir=x", "hydra.sweep.subdir=x: a job's folder is its number"),
    ("-m seed=1,2 hydra.sweep.dir=swept", "swept: holds a sweep already"),
    ("-m seed=1,2 hydra.sweep.dir=numbered", "numbered: holds the folder of a job already: 1"),
    ("-m seed=1,2 sweep.jobs=0", "sweep.jobs=0: must be a whole number of at least 1"),
    ("-m seed=1,2 sweep.jobs=1,2", "sweep.jobs=1,2: a setting of the whole sweep has one value"),
    ("-m seed=1,2 sweep.launcher=joblib", "sweep.launcher=joblib: must be local or slurm"),
    ("-m seed=1,2 sweep.slurm.partion=gpu", "sweep.slurm.partion=gpu: no such key; did you mean sweep.slurm.partition"),
    ("-m seed=3 sweep.method=optuna", "sweep.method=optuna: there is nothing to search"),
    ("-m clip=norm,nrom sweep.method=optuna", "clip=nrom: no such option; did you mean clip=norm?"),
    ("-m optimizer.lr=interval(-1,1) sweep.method=optuna", "optimizer.lr=-1: must be a number above 0"),
    ("-m seed=1,2 sweep.method=optuna sweep.trials=0", "sweep.trials=0: must be a whole number of at least 1"),
    ("sweep.dry_run=true", "sweep.dry_run=true: there is no sweep; add -m"),
    ("sweep.dryrun=true", "sweep.dryrun=true: no such key; did you mean sweep.dry_run?"),
    ("sweep.resume=short", "sweep.resume=short: not the folder of a sweep; it has no sweep.json that can be read"),
    ("-m sweep.resume=swept", "swept: not the folder of a sweep; it has no sweep.json that can be read"),
    ("hydra.run.dir=short/run", "cannot be created, since"),
    ("hydra.run.dir=taken", "hydra.run.dir=taken: holds a run already"),
    ("~steps", "steps: has no value"),
    ("model.layers=10000000", "model.layers=10000000: must be a whole number of at least 1 and at most 1,000"),
    ("+debug=fast", "+debug=fast: the group has an option already; write debug=fast"),
    ("device.threads=99999999", "device.threads=99999999: must be a whole number of at least 1 and at most 1,024"),
    ("data.windowé=1", "data.windowé=1: 'data.windowé' cannot be read as a key"),
    ("resume=nope", "resume=nope: there is no folder nope"),
    ("resume=latest", "resume=latest: there is no folder outputs/latest"),
    ("resume=taken", "resume=taken: not the folder of a run; it has no config.yaml"),
    ("resum=latest", "resum=latest: no such key; did you mean resume?"),
    ("-m resume=taken seed=1,2", "resume=taken: cannot be combined with --multirun"),
    ("--cfg job --package=nope", "--package=nope: no such part of the configuration"),
    ("--resolve", "--resolve: has an effect only with --cfg"),
    ("-m --cfg job", "--multirun and --cfg: only one of them at a time"),
    ("--info config clip=nrom", "clip=nrom: no such option"),
    ("--frobnicate", "--frobnicate: no such flag; a setting has no dashes: frobnicate=…"),
    ("--steps 5", "--steps: no such flag; a setting has no dashes: steps=5"),
    ("--lr=0.1 seed=2", "--lr=0.1: no such flag; a setting has no dashes: lr=0.1"),
    ("steps=1e3", "steps=1e3: must be a whole number"),
    ("clip.norm_type=max", "clip.norm_type=max: must be a number of at least 0.1, or inf"),
    ("clip.include=weight", "clip.include=weight: must be a list of patterns, such as include=[a,b]"),
    ("--config-dir=more", "--config-dir: not supported: 'hydra.searchpath=[file://FOLDER]' adds a folder"),
    ("--config-path=more", "--config-path: not supported: conf/ is the folder; 'hydra.searchpath=[file://FOLDER]'"),
    ("hydra.searchpath=[file://nope]", "hydra.searchpath=[file://nope]: no such folder of configurations"),
    ("--config-name=nope", "Cannot find primary config 'nope'"),
    ("--experimental-rerun=x", "--experimental-rerun: not supported"),
]  # fmt: skip

# User errors of options that a fork may have deleted.
ERRORS_OF_OPTIONS = [
    ("optimizer=adam optimizer.betas=1", "optimizer.betas=1: no such key in optimizer=adam; did you mean "),
    ("optimizer=adam optimizer.momentum=0.9", "optimizer.momentum=0.9: no such key in optimizer=adam; it belongs to "),
    ("optimizer=adam optimizer.beta1=1", "optimizer.beta1=1: must be a number of at least 0 and below 1"),
    ("model=mlp data=line data.low=1e39", "data.low=1e39: must be a number of at least -1e+30 and at most 1e+30"),
    ("model=mlp data=digits model.hidden=[0]", "model.hidden=[0]: must be a list of numbers of at least 1"),
    ("model=linear_net", "model=linear_net takes points, but data=text yields characters"),
    ("-m model=rnn,mlp", "model=mlp takes vectors or points, but data=text yields characters; model="),
]  # fmt: skip
USER_ERRORS += [(arguments, line) for arguments, line in ERRORS_OF_OPTIONS if not missing_options(arguments.split())]

# Errors in the configuration that only building the run can detect.
BUILD_ERRORS = [
    ("data.path=/no/such/file", "data.path=/no/such/file: no such file"),
    ("data.path=.", "data.path=.: not a file"),
    ("data.path=binary", "data.path=binary: a binary file, not a text: byte 2 is 0x00"),
    ("data.path=short", "data.path=short: 9 characters are too few"),
    ("device=cuda", "device=cuda: not available on this machine or in this build of torch; available: cpu"),
    ("clip.include=[nope.*]", "clip.include: the pattern 'nope.*' matches no parameter; there are embedding.weight,"),
    ("clip.exclude=[*]", "clip.exclude=[*]: must be patterns that leave at least one parameter to clip"),
    ("data.batch_size=1000000", "characters are too few"),
    ("model.hidden=1000000", "model=rnn: its weights do not fit into the memory of cpu"),
    ("init_from=nope.pt", "init_from=nope.pt: no such checkpoint"),
    ("init_from=short", "init_from=short: damaged, or not a checkpoint of this program"),
    ("init_from=taken", "init_from=taken: a folder; name a file, such as "),
    ("init_from=nope.safetensors", "init_from=nope.safetensors: no such file"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "short").write_text("too short")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "status.json").touch()
    (tmp_path / "numbered" / "1").mkdir(parents=True)
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "sweep.json").write_text('{"jobs": 3}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


@pytest.mark.parametrize(("arguments", "line"), USER_ERRORS, ids=[arguments for arguments, _ in USER_ERRORS])
def test_a_user_error_is_one_line(arguments: str, line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = preflight_error(arguments.split(), capsys)
    assert line in found
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("stesp: 3", "stesp: no such key; did you mean steps?"),
        ("clip:\n  maks: 3", "clip.maks: no such key in clip=norm; did you mean clip.max?"),
        ("clip:\n  max: none", "clip.max=none: must be a number above 0"),
        ("clip:\n  max: -3", "clip.max=-3.0: must be a number above 0"),
        ("clip: [1", "typo.yaml, line 3: not YAML"),
        ("defaults:\n  - override /clip: nrom", "clip=nrom: no such option; did you mean clip=norm?"),
        ("defaults:\n  - override /clap: norm", "clap"),
        ("defaults:\n  - override /hydra/launcher: joblib", "hydra/launcher=joblib: not used here; sweep.jobs=4 runs"),
        ("defaults:\n  - override /hydra/sweeper: optuna", "hydra/sweeper=optuna: not used here; sweep.method=grid or"),
        (
            "defaults:\n  - clip: norm",
            "experiment/clip/norm: no such file; an experiment chooses an option by `override /clip: norm`",
        ),
    ],
)
def test_a_typo_in_an_experiment_file(
    content: str, line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "more" / "experiment").mkdir(parents=True)
    (folder / "more" / "experiment" / "typo.yaml").write_text(f"# @package _global_\n{content}\n")
    assert line in preflight_error([SEARCHPATH, "experiment=typo"], capsys)
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize("group", sorted(PROJECT.groups))
def test_an_option_written_as_a_value_is_answered_with_the_defaults_list(
    group: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message shows the form that works, for every option of a group."""
    (folder / "more" / "experiment").mkdir(parents=True)
    file = folder / "more" / "experiment" / "typo.yaml"
    for option in composer().options()[group]:
        file.write_text(f"# @package _global_\n{group}: {option}\n")
        line = preflight_error([SEARCHPATH, "experiment=typo"], capsys)
        form = f"[override /{group}: {option}]"
        assert (
            line
            == f"experiment/typo.yaml: {group}: {option}: an option is chosen in the defaults list: defaults: {form}"
        )
        file.write_text(f"# @package _global_\ndefaults: {form}\n")
        assert composer().compose([SEARCHPATH, "experiment=typo"])[group].name == option


@pytest.mark.parametrize(("arguments", "line"), BUILD_ERRORS, ids=[arguments for arguments, _ in BUILD_ERRORS])
def test_an_error_that_only_building_finds_is_one_line(arguments: str, line: str, folder: Path) -> None:
    if arguments == "device=cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError) as error:
        execute_in_folder(compose(*arguments.split()), folder / "run")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_that_cannot_be_built_leaves_no_folder(folder: Path) -> None:
    done = run(ROOT / "train.py", "data.path=short", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: data\.path=.*/short: 9 characters are too few.*\n", done.stderr)
    assert list((folder / "outputs" / "runs").iterdir()) == []
    assert not (folder / "outputs" / "latest").exists()


@pytest.mark.parametrize(
    "arguments", ["seed=1,2 debug=fast -m", "debug=fast seed=1,2 --multirun", "-m debug=fast,anomaly"]
)
def test_flags_and_options_in_any_order(arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep is interrupted before its first job starts, when its plan has been written."""
    monkeypatch.setattr("runner.sweeps.jobs.JobRunner.run", lambda self, source: signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        cli.preflight(PROJECT, ["train.py", *arguments.split()])
    assert end.value.code == 130
    (plan,) = (folder / "outputs" / "sweeps").glob("*/sweep.json")
    jobs = json.loads(plan.read_text())["jobs"]
    expected = ["fast", "anomaly"] if "anomaly" in arguments else [1, 2]
    assert [*jobs[0]["swept"].values(), *jobs[1]["swept"].values()] == expected


def test_a_sweep_in_an_experiment_file_is_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more" / "experiment").mkdir(parents=True)
    (folder / "more" / "experiment" / "grid.yaml").write_text(
        '# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: "1,-2"\n'
    )
    line = preflight_error(["-m", SEARCHPATH, "experiment=grid"], capsys)
    assert line.startswith("seed=-2: must be a whole number")
    assert "job 1: seed=-2" in line
    assert preflight_error([SEARCHPATH, "experiment=grid"], capsys).startswith("hydra.mode=MULTIRUN: -m makes a sweep")


@pytest.mark.parametrize("arguments", [["clip=nrom"], ["-m", "clip.max=1,-1"]])
def test_the_program_answers_an_error_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    done = run(ROOT / "train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: clip")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_lists_groups_options_and_every_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.preflight(PROJECT, ["train.py", "clip=value", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert re.search(r"clip +adagc .* none  norm .* \[value\]", text)
    assert re.search(r"clip\.max=0\.02 +the largest magnitude that an element keeps \(a number above 0, or inf\)", text)
    assert re.search(r"log\.every=1 +steps between two points in TensorBoard", text)
    assert "schema" not in text


# -- without torch

SUCCEEDING = [["--help"], ["--cfg", "job"], ["-sc", "query=bash"]]
FAILING = [["clip=nrom"], ["clip.max=-1"], ["+x=1"], ["-m", "clip.max=1,-1"], ["resume=nope"],
           ["schedule.warmup=9999"] if missing_options(["model=linear_net"]) else ["model=linear_net"]]  # fmt: skip


def test_help_and_configuration_errors_do_not_import_torch(tmp_path: Path) -> None:
    """A single interpreter runs train.py with all arguments in turn."""
    code = dedent(f"""
        import runpy, sys
        for arguments in {SUCCEEDING + FAILING}:
            sys.argv = ["train.py", *arguments]
            code = 0
            try:
                runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
            print("\\nENDED", code, "torch" in sys.modules, *arguments)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "COMP_LINE": "python train.py clip=", "COMP_POINT": "21"},
    )  # fmt: skip
    ends = [line for line in done.stdout.splitlines() if line.startswith("ENDED")]
    expected = [(0, arguments) for arguments in SUCCEEDING] + [(2, arguments) for arguments in FAILING]
    assert ends == [f"ENDED {code} False {' '.join(arguments)}" for code, arguments in expected], (
        done.stdout + done.stderr
    )


def test_completion_offers_options_and_keys(tmp_path: Path) -> None:
    for line, offered in (("clip=n", "clip=none clip=norm clip=normalize"), ("clip.ma", "clip.max=")):
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), "-sc", "query=bash"], cwd=tmp_path, capture_output=True, text=True,
            env={"PATH": "", "COMP_LINE": f"python train.py {line}", "COMP_POINT": "99"}, check=True,
        )  # fmt: skip
        assert " ".join(done.stdout.split()).startswith(offered)
