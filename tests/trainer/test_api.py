"""Training and reading runs from Python."""

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import trainer
from runner.errors import UserError
from runner.runs.run import SIGNALS
from runner.tracking import metrics
from tests.support import ROOT
from tests.trainer.options import require_options
from tests.trainer.support import compose
from trainer import run as execution
from trainer.device import CUBLAS_VARIABLE
from trainer.evaluate import evaluate

LINE = [
    "model=linear_net",
    "data=line",
    "steps=12",
    "evaluate_every=4",
    "optimizer.lr=0.05",
    "log.gradient_norms=false",
]


@pytest.fixture(autouse=True)
def line_options() -> None:
    require_options(*LINE)


def test_the_result_of_a_run(tmp_path: Path) -> None:
    result = trainer.train([*LINE, "clip=norm", "clip.max=0.5"], tmp_path / "run")
    assert (result.state, result.reason, result.folder) == ("finished", None, tmp_path / "run")
    logged = metrics.read(tmp_path / "run")
    assert result.objective == min(value for _, value in logged["loss/val"])
    steps = [line for line in result.metrics if "loss/train" in line]
    assert [(line["step"], line["loss/train"]) for line in steps] == logged["loss/train"]
    assert all(line["grad_norm/after"] <= 0.5 * (1 + 1e-6) for line in steps)
    overrides = yaml.safe_load((tmp_path / "run" / ".hydra" / "overrides.yaml").read_text())
    assert overrides == [*LINE, "clip=norm", "clip.max=0.5"]


def test_a_run_is_the_same_as_on_the_command_line(tmp_path: Path) -> None:
    """Every value of every step but the time, and the weights."""
    arguments = [*LINE, "seed=3"]
    result = trainer.train(arguments, tmp_path / "python")
    folder = tmp_path / "shell"
    command = [sys.executable, str(ROOT / "train.py"), *arguments, f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    one, other = metrics.read(result.folder), metrics.read(folder)
    times = {"steps_per_second", "clip/cost"}
    assert {tag: one[tag] for tag in one if tag not in times} == {tag: other[tag] for tag in other if tag not in times}
    states = [trainer.load(run).model.state_dict() for run in (result.folder, folder)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_each_call_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In outputs/runs, with outputs/latest pointing to the newest."""
    monkeypatch.chdir(tmp_path)
    results = [trainer.train([*LINE, f"seed={seed}"]) for seed in (1, 1)]
    assert results[0].folder != results[1].folder
    assert {result.folder.parent for result in results} == {tmp_path / "outputs" / "runs"}
    assert (tmp_path / "outputs" / "latest").resolve() == results[1].folder
    losses = [[line.get("loss/train") for line in result.metrics] for result in results]
    assert losses[0] == losses[1]


def test_a_configuration_is_taken_and_not_changed(tmp_path: Path) -> None:
    config = compose(*LINE)
    before = repr(config)
    result = trainer.train(config, tmp_path / "run")
    assert result.state == "finished"
    assert repr(config) == before


def test_a_divergence_is_a_result(tmp_path: Path) -> None:
    result = trainer.train([*LINE, "clip=none", "optimizer.lr=5", "post_mortem.try_steps=0"], tmp_path / "run")
    assert result.state == "diverged"
    assert result.reason is not None
    assert "smoothed training loss" in result.reason
    assert (tmp_path / "run" / "post_mortem.md").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["clip.maxx=1"], "clip.maxx=1: no such key in clip=norm; did you mean clip.max?"),
        (["clip.max=-1"], "clip.max=-1: must be a number above 0, or inf"),
        (["model=nothing"], "model=nothing"),
        (["clip.include=[nothing]"], "clip.include: the pattern 'nothing' matches no parameter"),
        (["resume=latest"], "resume=latest: a new run is started here; the command line resumes one: python train.py"),
        (["++resume=/none"], "resume=/none: a new run is started here; the command line resumes one: python train.py"),
        (["-m"], "-m: one run is started here; a sweep starts on the command line"),
        (["sweep.jobs=2"], "sweep.jobs=2: one run is started here; a sweep starts on the command line"),
        (["hydra.run.dir=mine"], "hydra.run.dir=mine: the run's folder is given by the argument folder"),
        (["hydra.verbose=true"], "hydra.verbose=true: has an effect on the command line only; leave this out"),
        (["hydra/job_logging=none"], "hydra/job_logging=none: has an effect on the command line only"),
    ],
)
def test_a_mistake_is_an_exception_of_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        trainer.train([*LINE, *overrides], tmp_path / "run")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 0, "steps=0: must be a whole number of at least 1"),
        ("steps", -3, "steps=-3: must be a whole number of at least 1"),
        ("steps", "ten", "steps=ten: must be a whole number of at least 1"),
        ("evaluate_every", 0, "evaluate_every=0: must be a whole number of at least 1"),
        ("micro_batches", 10**6, "micro_batches=1000000: must be at most data.batch_size="),
        ("resume", "latest", "resume=latest: a new run is started here; the command line resumes one: python train.py"),
        ("clip", "norm", "clip: has no value; choose one of"),
        ("clip.max", -1, "clip.max=-1.0: must be a number above 0, or inf"),
    ],
)
def test_a_changed_configuration_is_checked_again(tmp_path: Path, key: str, value: Any, message: str) -> None:
    config = compose(*LINE)
    group, _, name = key.rpartition(".")
    setattr(getattr(config, group) if group else config, name, value)
    with pytest.raises(UserError) as error:
        trainer.train(config, tmp_path / "run")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("overrides", ["steps=10", b"steps=10", None, {"steps": 10}, 10])
def test_overrides_of_another_type_are_one_line(tmp_path: Path, overrides: Any) -> None:
    message = f"overrides: must be a list such as .* or a configuration, not {type(overrides).__name__}$"
    with pytest.raises(TypeError, match=message):
        trainer.train(overrides, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, /proc is one of those."""

    def mkdir(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match=r"^folder=.*/run: cannot be created: No such file or directory$"):
        trainer.train(LINE, tmp_path / "run")


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    trainer.train(LINE, tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already"):
        trainer.train(LINE, tmp_path / "run")


@pytest.mark.parametrize("more", [[], ["clip=none", "optimizer.lr=5", "post_mortem.try_steps=5"], ["clip.max=-1"]])
def test_everything_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    """Logging, signal handlers, random numbers and torch's settings: after a finish, a divergence and a mistake."""
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)

    def snapshot() -> list[object]:
        root = logging.getLogger()
        numpy = np.random.get_state(legacy=True)[1].tolist()
        return [list(root.handlers), root.level, [signal.getsignal(number) for number in SIGNALS],
                random.getstate(), numpy, torch.get_rng_state().tolist(), torch.get_num_threads(),
                torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, Path.cwd(),
                dict(os.environ), list(warnings.filters)]  # fmt: skip

    threads = torch.get_num_threads()
    before = snapshot()
    try:
        trainer.train([*LINE, f"device.threads={threads + 1}", "device.deterministic=error", *more], tmp_path / "run")
    except UserError:
        assert more == ["clip.max=-1"]
    assert snapshot() == before


def test_filters_of_warnings_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library may add a filter when it is first imported."""
    monkeypatch.setattr(execution, "execute", lambda config, run: warnings.simplefilter("error", RuntimeWarning))
    before = list(warnings.filters)
    trainer.train(LINE, tmp_path / "run")
    assert list(warnings.filters) == before


def test_a_variable_of_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_VARIABLE, ":16:8")
    trainer.train(LINE, tmp_path / "run")
    assert os.environ[CUBLAS_VARIABLE] == ":16:8"


def test_a_stream_of_an_earlier_handler_is_still_open(tmp_path: Path) -> None:
    root, path = logging.getLogger(), tmp_path / "own.log"
    own = logging.FileHandler(path)
    root.addHandler(own)
    try:
        trainer.train(LINE, tmp_path / "run")
        root.error("after the run")
    finally:
        root.removeHandler(own)
        own.close()
    assert path.read_text() == "after the run\n"


@pytest.mark.parametrize("which", ["best", "last", "8", 8, Path("checkpoints/step_8.pt")])
def test_a_loaded_run_has_the_weights_of_a_checkpoint(tmp_path: Path, which: str | int | Path) -> None:
    result = trainer.train([*LINE, "checkpoint.every=4", "checkpoint.keep=9"], tmp_path / "run")
    state = trainer.load(result.folder, result.folder / which if isinstance(which, Path) else which)
    logged = dict(metrics.read(tmp_path / "run")["loss/val"])
    step = min(logged, key=lambda number: logged[number]) if which == "best" else 12 if which == "last" else 8
    assert state.step == step
    assert evaluate(state)[0] == pytest.approx(logged[step], rel=1e-6)
    assert state.config == compose(*LINE, "checkpoint.every=4", "checkpoint.keep=9")
    assert not trainer.load(result).model.training


def test_what_is_not_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        trainer.load(tmp_path)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import trainer; import sys; assert 'torch' not in sys.modules; trainer.train"
    environment = {**os.environ, "PYTHONPATH": "src"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
