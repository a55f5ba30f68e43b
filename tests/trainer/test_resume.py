"""A run that is ended at any step and resumed equals the uninterrupted run bit for bit."""

import contextlib
import copy
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gradclip.errors import InvalidField
from runner.cli import resume
from runner.cli.preflight import preflight
from runner.config import flatten
from runner.errors import UserError
from runner.report import summary
from runner.runs import checkpoint
from runner.runs.run import Run, save_config
from runner.runs.status import actual_state, read_status
from scripts import evaluate
from tests.comparison import TIMES, assert_identical, assert_same_run, points, scalars, shown_scalars
from tests.programs import run
from tests.support import ROOT
from tests.trainer.options import missing_options, option_names, require_options, require_precision
from tests.trainer.resumption import (
    COMMON,
    DIGITS,
    LINE,
    STEPS,
    TEXT,
    Killed,
    config_for,
    end_at_steps,
    run_until_finished,
)
from tests.trainer.support import compose, preflight_error, text_file
from trainer.config import Train
from trainer.config.data import Data
from trainer.config.model import Model
from trainer.history import MAX_NORMS, History
from trainer.project import PROJECT, composer, load
from trainer.randomness import rng_state, set_rng_state
from trainer.run import execute, execute_in_folder

pytestmark = pytest.mark.long

TRAIN = ROOT / "train.py"
# Combinations of models, data sets, policies, optimizers and schedules, and of other settings that keep a state.
ALL_COMBINATIONS = [
    (*TEXT, "clip=norm"),
    (*TEXT, "clip=zclip", "model=lstm", "model.dropout=0.3", "model.layers=2", "optimizer=adam", "schedule=cosine"),
    (*TEXT, "clip=autoclip", "clip.window=4", "micro_batches=2", "optimizer=rmsprop", "optimizer.lr=0.01",
     "log.every=5"),
    (*TEXT, "clip=adagc", "clip.warmup=2", "optimizer.momentum=0.9", "schedule=linear", "optimizer.lr=0.3"),
    (*TEXT, "clip=ema", "clip.warmup=2", "repeat_batches=4"),
    (*TEXT, "clip=quantile", "model=lstm", "micro_batches=3", "log.every=4", "schedule.warmup=6"),
    (*TEXT, "clip=spike", "clip.warmup=2", "clip.theta=3", "optimizer=adamw", "optimizer.fused=false"),
    (*TEXT, "clip=none", "device.precision=bfloat16", "model=lstm"),
    (*TEXT, "clip=norm", "clip.nonfinite=drop", "device.precision=float16", "optimizer.lr=0.1"),
    (*TEXT, "clip=norm", "clip.schedule=linear", "clip.final=0.1", "clip.over=10"),
    (*DIGITS, "clip=value", "model=mlp", "model.hidden=[8]", "optimizer.lr=0.1"),
    (*DIGITS, "clip=agc", "model=mlp", "model.hidden=[8]", "data.workers=2", "optimizer=adam"),
    (*DIGITS, "clip=chain", "clip@clip.links.whole=zclip", "model=rnn", "model.hidden=4", "optimizer.lr=0.1"),
    (*DIGITS, "clip=rms", "model=lstm", "model.hidden=4", "model.dropout=0.5", "data.workers=1", "optimizer.lr=0.1"),
    (*LINE, "clip=normalize"),
    (*LINE, "clip=soft", "model=mlp", "model.hidden=[4]"),
    (*LINE, "clip=drop", "clip.max=1.5"),
    ("data=direction", "model=deep_linear", "model.layers=3", "optimizer.lr=0.01", "clip=norm", "log.histograms=true"),
    ("data=temporal_order", "data.length=12", "model.hidden=8", "clip=zclip", "optimizer.lr=0.1",
     "log.gradient_norms=true"),
]  # fmt: skip


def on_text(combination: tuple[str, ...]) -> tuple[str, ...]:
    """The combination with the default model, data and optimizer, for one whose own a fork has deleted."""
    return (*TEXT, *(override for override in combination if not override.startswith(("model", "data", "optimizer"))))


def further_combinations(combinations: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """A combination for each option that these do not choose, such as those that a fork adds."""
    chosen = {override for combination in combinations for override in combination}
    for group in ("clip", "optimizer", "schedule"):
        yield from ((*TEXT, f"{group}={name}") for name in option_names(group) if f"{group}={name}" not in chosen)
    for model, data in product(option_names("model"), option_names("data")):
        taken = Data.options[data].kind in Model.options[model].takes
        if taken and not {f"model={model}", f"data={data}"} <= chosen | {"model=rnn", "data=text"}:
            chosen |= {f"model={model}", f"data={data}"}
            yield f"model={model}", f"data={data}", "optimizer.lr=0.01"


WITH_STATE = "optimizer.momentum=0.9" if missing_options(["optimizer=adam"]) else "optimizer=adam"
AVAILABLE = [on_text(overrides) if missing_options(overrides) else overrides for overrides in ALL_COMBINATIONS]
KNOWN = list(dict.fromkeys(AVAILABLE))
COMBINATIONS = [*KNOWN, *further_combinations([*KNOWN, ("optimizer=sgd", "schedule=constant")])]


@pytest.mark.parametrize(
    "overrides", COMBINATIONS, ids=lambda combination: " ".join(each for each in combination if each not in TEXT)
)
def test_a_resumed_run_equals_the_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    """The run is killed before its first checkpoint and within an epoch of 4 or 5 steps, and interrupted by signals."""
    require_precision(overrides)
    config = config_for(tmp_path, overrides)
    assert execute_in_folder(config, tmp_path / "uninterrupted").state == "finished"
    end_at_steps(monkeypatch, {2: None, 6: None, 7: signal.SIGTERM, 9: signal.SIGUSR1, 11: None, 12: None})
    ends = run_until_finished(config, tmp_path / "resumed")
    assert ends == ["killed", "killed", "interrupted", "interrupted", "killed", "killed", "finished"]
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "resumed", STEPS)


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_run_can_be_resumed_after_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The run has dropout, policy memory, optimizer state and a hidden state; its first epoch ends at step 5."""
    config = config_for(tmp_path, (*TEXT, "model.layers=2", "model.dropout=0.3", "clip=zclip", WITH_STATE))
    execute_in_folder(config, tmp_path / "uninterrupted")
    end_at_steps(monkeypatch, {step: signal.SIGINT})
    assert run_until_finished(config, tmp_path / "resumed") == ["interrupted", "finished"]
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "resumed", STEPS)


def test_a_run_killed_after_its_last_step_finishes_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed before it writes its last checkpoint, and before it records that it has finished."""
    config, real = config_for(tmp_path, TEXT), checkpoint.save

    def save(folder: Path, content: dict[str, Any], *, keep: int) -> None:
        if content["step"] == STEPS:
            raise Killed
        real(folder, content, keep=keep)

    def show(*arguments: Any, **named: Any) -> None:
        raise Killed

    execute_in_folder(config, tmp_path / "uninterrupted")
    for module, name, killed in ((checkpoint, "save", save), (summary, "show", show)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(Killed):
                execute_in_folder(config, tmp_path / name)
        assert (tmp_path / name / "checkpoints" / "step_12.pt").exists() == (name == "show")
        assert execute_in_folder(config, tmp_path / name, resumed=True).state == "finished"
        assert_same_run(tmp_path / "uninterrupted", tmp_path / name, STEPS)


def test_a_run_killed_before_or_after_file_operations_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operations sync, truncate, rename and delete checkpoints, the status and event files."""
    config = config_for(tmp_path, (*TEXT, "checkpoint.every=2", "evaluate_every=3", "clip=zclip", WITH_STATE))
    execute_in_folder(config, tmp_path / "uninterrupted")
    count = 0

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            ends = (
                count < 80 and count % 11 == 0
            )  # later starts truncate more files, and would be killed before any progress
            if ends and count % 2:
                raise Killed
            result = real(*arguments, **named)
            if ends:
                raise Killed
            return result

        return call

    for owner, name in ((os, "fsync"), (os, "truncate"), (Path, "replace"), (Path, "unlink"), (Path, "rename")):
        monkeypatch.setattr(owner, name, killing(getattr(owner, name)))
    assert run_until_finished(config, tmp_path / "resumed") == ["killed"] * 7 + ["finished"]
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "resumed", STEPS)


def test_a_signal_during_the_last_but_one_step_does_not_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path, TEXT)
    end_at_steps(monkeypatch, {STEPS - 1: signal.SIGTERM})
    assert execute_in_folder(config, tmp_path / "run").state == "finished"


def test_a_resumed_run_diverges_at_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path, (*TEXT, "clip=none", "optimizer.lr=20", "log.every=2"))
    assert execute_in_folder(config, tmp_path / "uninterrupted").state == "diverged"
    end_at_steps(monkeypatch, {3: signal.SIGTERM, 4: None})
    assert run_until_finished(config, tmp_path / "resumed")[-1] == "diverged"
    found = [json.loads((tmp_path / name / "status.json").read_text()) for name in ("uninterrupted", "resumed")]
    assert found[0]["step"] > 4
    assert [found[1][key] for key in ("step", "reason")] == [found[0][key] for key in ("step", "reason")]
    assert scalars(tmp_path / "uninterrupted") == scalars(tmp_path / "resumed")


# -- random generators and history


def test_every_random_generator_is_restored(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.random(), np.random.standard_normal(), np.random.random(), torch.rand(()).item()

    draw()  # NumPy then holds the second half of a combination of normal numbers
    path = checkpoint.save(tmp_path, {"random": rng_state(), "step": 1}, keep=1)
    after = draw(), draw()
    set_rng_state(checkpoint.load(path)["random"])
    assert (draw(), draw()) == after


def test_the_history_of_a_long_run_is_bounded() -> None:
    history, values = History(), [math.sin(step) for step in range(5 * MAX_NORMS)]
    for value in values:
        history.add_step(1.0, value, False)
    assert MAX_NORMS // 2 <= len(history.before) < MAX_NORMS
    assert list(history.before) == values[:: history.stride]
    assert history.logged == len(values)
    copy = History()
    copy.load_state_dict(history.state_dict())
    assert copy == history


# -- the choice of the checkpoint


def test_a_damaged_checkpoint_is_named_and_renamed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise it would count as one of the newest, and good checkpoints would be deleted for it."""
    config = config_for(tmp_path, (*TEXT, "evaluate_every=100", "checkpoint.every=4", "checkpoint.keep=2"))
    execute_in_folder(config, tmp_path / "uninterrupted")
    execute_in_folder(config, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "best.pt").unlink()
    (folder / "step_12.pt").write_bytes((folder / "step_12.pt").read_bytes()[:-1])
    for parent in (folder, folder.parent):
        (parent / ".half.pt.part").touch()
    with caplog.at_level("INFO"):
        execute_in_folder(config, tmp_path / "run", resumed=True)
    assert f"{folder / 'step_12.pt'}: damaged, or not a checkpoint of this program; it is skipped" in caplog.messages
    assert "resumed after step 8 from step_8.pt" in caplog.messages
    assert {path.name for path in folder.iterdir()} == {"step_8.pt", "step_12.pt", "step_12.pt.damaged", "best.pt"}
    assert not (folder.parent / ".half.pt.part").exists()
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "run", STEPS)


def test_checkpoints_in_an_older_format_are_refused_and_kept(tmp_path: Path) -> None:
    config = finished(tmp_path)
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    for path in files:
        content = checkpoint.load(path)
        del content["format"]
        torch.save(content, path)
    config.steps = 20
    before = [path.read_bytes() for path in files]
    with pytest.raises(UserError, match=r"^\S*best\.pt: a checkpoint in another format than this program's 5"):
        execute_in_folder(config, tmp_path / "run", resumed=True)
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == files
    assert [path.read_bytes() for path in files] == before


def test_a_run_is_resumed_from_the_best_checkpoint_if_it_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path, (*TEXT, "evaluate_every=5", "checkpoint.every=4"))
    execute_in_folder(config, tmp_path / "uninterrupted")
    end_at_steps(monkeypatch, {7: None})
    with pytest.raises(Killed):
        execute_in_folder(config, tmp_path / "run")
    found = checkpoint.load_newest(tmp_path / "run")
    assert found is not None
    assert (found[0].name, found[1]["step"]) == ("best.pt", 5)
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "run", STEPS)


# -- settings that may change on resume


def finished(folder: Path, *overrides: str) -> Train:
    """Executes a small run in `folder/run`. Returns its configuration."""
    config = config_for(folder, (*TEXT, *overrides))
    (folder / "run").mkdir()
    save_config(config, folder / "run")
    assert execute_in_folder(config, folder / "run").state == "finished"
    return config


CHANGES = {
    "steps": "15", "evaluate_every": "7", "check_every": "2", "detect_anomaly": "true", "log.every": "5",
    "log.parameters_every": "2", "log.progress": "true", "checkpoint.every": "7", "checkpoint.keep": "5",
    "divergence.factor": "null", "data.sample": "30", "log.first_steps": "2", "log.gradient_norms": "true",
    "log.histograms": "true", "diagnosis.explode": "9", "diagnosis.update_max": "1", "diagnosis.update_min": "0",
    "diagnosis.smoothing": "0.5", "diagnosis.patience": "9", "init_from": "moved.pt",
    "post_mortem.replay_steps": "9", "post_mortem.try_steps": "9", "post_mortem.seconds": "9",
}  # fmt: skip


def test_an_extended_run_equals_one_configured_longer_from_the_start(tmp_path: Path) -> None:
    """All mutable settings change, and the weights are the same."""
    kept = ("clip=zclip", "model.dropout=0.2", "data.window=20")  # anomaly detection keeps a traceback of every factor
    finished(tmp_path, *kept)
    changed = config_for(tmp_path, (*TEXT, *kept, *map("=".join, CHANGES.items())))
    changed.data.path = str(shutil.move(changed.data.path, tmp_path / "moved.txt"))
    keys = dict(PROJECT.all_keys())
    mutable = {name for name, field in keys.items() if field.metadata.get("mutable_on_resume")}
    assert (set(CHANGES) | {"data.path", "data.workers", "resume"}) & keys.keys() == mutable
    execute_in_folder(replace(changed, init_from=None), tmp_path / "uninterrupted")
    execute_in_folder(changed, tmp_path / "run", resumed=True)
    one, other = (checkpoint.load(tmp_path / name / "checkpoints" / "step_15.pt") for name in ("uninterrupted", "run"))
    for part in ("model", "optimizer", "clipper", "random", "hidden"):
        assert_identical(one[part], other[part], part)
    assert load(tmp_path / "run") == changed


REFUSED = [
    ("clip.max=3 seed=4", "clip.max=3.0, seed=4: would make it another run; init_from=run/checkpoints/best.pt"),
    ("clip=value", "clip=value: another option cannot be chosen when a run is resumed; what can change is"),
    ("experiment=digits", "experiment=digits: another option cannot be chosen when a run is resumed"),
    ("clip@clip.links.a=norm", "clip@clip.links.a=norm: another option cannot be chosen when a run is resumed"),
    ("stesp=3", "stesp=3: no such key; did you mean steps?"),
    ("steps=0", "steps=0: must be a whole number of at least 1"),
    ("steps=x", "steps=x: must be a whole number of at least 1"),
    ("steps=1,2", "steps=1,2: one run is resumed at a time"),
    ("+steps=30", "+steps=30: a key cannot be added or deleted when a run is resumed"),
    ("~seed", "~seed: a key cannot be added or deleted when a run is resumed"),
    ("hydra.run.dir=x", "hydra.run.dir=x: a run is resumed in its own folder"),
    ("-m steps=30", "resume=run: cannot be combined with --multirun"),
    ("log.every=2", "run: the run has finished its 12 steps; add steps=24 to train it longer"),
    ("data.workers=2", "data.workers=2: no such key in data=text"
     + ("" if missing_options(["data=digits"]) else "; it belongs to data=digits")),
]  # fmt: skip


def test_overrides_that_change_the_past_of_a_run_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments, line in REFUSED:
        assert line in preflight_error(["resume=run", *arguments.split()], capsys), arguments
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "config.yaml").touch()
    for name, line in (("nope", "there is no folder nope"), ("latest", "there is no folder outputs/latest"),
                       ("small.txt", "not the folder of a run"), (".", "resume=.: a sweep; name one of its jobs: "),
                       ("run/checkpoints", "resume=run/checkpoints: not the folder of a run; it has no config.yaml"),
                       ("sweep", "resume=sweep: a sweep; name one of its jobs: sweep/0")):  # fmt: skip
        assert line in preflight_error([f"resume={name}"], capsys)
    assert {path: path.read_bytes() for path in before} == before


DIGITS_MLP = ("data=digits", "model=mlp")
NEW_VALUES = {str: ("drop", "relu", "bfloat16"), bool: ("true", "false"), list: ("[x]", "[3]"), type(None): ("1", "x")}


@pytest.mark.parametrize(
    "overrides", [(), (*(() if missing_options(DIGITS_MLP) else DIGITS_MLP), "clip=agc", "schedule=cosine")]
)
def test_exactly_the_mutable_keys_can_change_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    """Every key is given other values; those that are accepted change mutable keys only."""
    saved = compose(*overrides)
    monkeypatch.setattr(resume, "load", lambda folder, project: copy.deepcopy(saved))
    before, changed = flatten(saved), set()
    for name, value in before.items():
        numbers = (value + 1, value / 2) if type(value) in (int, float) else ()
        for new in [*NEW_VALUES.get(type(value), ()), *numbers]:
            with contextlib.suppress(UserError, InvalidField, OmegaConfBaseException, HydraException):
                later = flatten(resume.resumed_settings(tmp_path, PROJECT, composer().parse([f"{name}={new}"])))
                changed |= {key for key, value in later.items() if value != before[key]}
    unchanged = {"resume", "steps"} if "schedule=cosine" in overrides else {"resume"}
    mutable = {name for name, field in PROJECT.all_keys() if field.metadata.get("mutable_on_resume")}
    assert changed == (mutable & before.keys()) - unchanged


def test_steps_cannot_change_if_the_schedule_spans_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path, "schedule=cosine")
    monkeypatch.chdir(tmp_path)
    line = preflight_error(["resume=run", "steps=30"], capsys)
    assert line == "steps=30: schedule=cosine spans all steps, so that every rate changes"
    assert preflight_error(["resume=run"], capsys) == "run: the run has finished its 12 steps"
    assert preflight_error(["resume=run,other"], capsys).startswith("resume=run,other: one run is resumed at a time")


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    for overrides, line in (
        (("clip.max=3", "steps=20"), r"step_12\.pt: saved with another clip\.max than"),
        (("steps=5",), r"steps=5: .*step_12\.pt has completed 12 already"),
    ):
        with pytest.raises(UserError, match=line):
            execute_in_folder(config_for(tmp_path, (*TEXT, *overrides)), tmp_path / "run", resumed=True)


def test_moved_data_is_identified_by_its_content(tmp_path: Path) -> None:
    """The new path is relative to the current folder, the encoding is another, and config.yaml has the new path."""
    finished(tmp_path)
    text = Path(tmp_path / "small.txt").read_text(encoding="utf-8")
    (tmp_path / "small.txt").unlink()
    (tmp_path / "moved.txt").write_text(text, encoding="utf-16")
    (tmp_path / "other.txt").write_text(text.replace("clip", "clop"), encoding="utf-8")
    done = run(TRAIN, "resume=run", "steps=13", "data.path=other.txt", cwd=tmp_path)
    hashes = [hashlib.sha256(content.encode()).hexdigest()[:12] for content in (text, text.replace("clip", "clop"))]
    assert done.returncode == 2
    assert done.stderr.endswith(f"/step_12.pt: the data has changed: its hash was {hashes[0]}… and is {hashes[1]}…\n")
    assert done.stderr.count("\n") == 1
    done = run(TRAIN, "resume=run", "steps=13", "data.path=moved.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "run").data.path == str(tmp_path / "moved.txt")
    evaluate.main([str(tmp_path / "run")])


def test_init_from_can_change_until_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path)
    best, moved = tmp_path / "run" / "checkpoints" / "best.pt", tmp_path / "moved.pt"
    config = config_for(tmp_path, (*TEXT, f"init_from={best}"))
    end_at_steps(monkeypatch, {1: None})
    with pytest.raises(Killed):
        execute_in_folder(config, tmp_path / "tuned")
    save_config(config, tmp_path / "tuned")
    best.rename(moved)
    done = run(TRAIN, "resume=tuned", "init_from=moved.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "init_from" not in done.stderr


def test_a_refused_resume_changes_no_file(tmp_path: Path) -> None:
    """Neither the configuration nor the status changes, so that the run can be resumed afterwards."""
    finished(tmp_path)
    folder, weights, text = tmp_path / "run", tmp_path / "weights.pt", tmp_path / "small.txt"
    (folder / "checkpoints" / "best.pt").rename(weights)
    shutil.rmtree(folder)
    config = finished(tmp_path, f"init_from={weights}")
    weights.unlink()  # the checkpoints contain them
    (folder / "checkpoints" / "step_13.pt").touch()
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"state": "interrupted"}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text.write_text((original := text.read_text()) + "more")
    with pytest.raises(UserError, match="the data has changed"):
        execute_in_folder(config, folder, resumed=True)
    text.write_text(original)
    done = run(TRAIN, "resume=run", "steps=11", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    assert "steps=11: " in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert run(TRAIN, "resume=run", "steps=14", cwd=tmp_path).returncode == 0
    assert (read_status(folder)["state"], load(folder).steps, config.steps) == ("finished", 14, STEPS)
    assert (folder / "checkpoints" / "step_13.pt.damaged").exists()


def test_a_resume_with_other_numerics_logs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = finished(tmp_path)
    config.steps = 13
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert "can differ by rounding" not in caplog.text
    config.steps = 14
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert re.search(r"saved with .*threads: 1; resumed with .*threads: 7: results can differ by rounding", caplog.text)


def test_a_missing_event_file_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = finished(tmp_path)
    (events,) = (tmp_path / "run").glob("events*")
    events.unlink()
    config.steps = 13
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert f"{events}: missing; the points in it are lost" in caplog.messages


def test_a_checkpoint_with_a_mismatched_optimizer_or_hidden_state_is_refused(tmp_path: Path) -> None:
    """torch accepts an optimizer's state of any shape, and a fused step would write past the end of a smaller one."""
    require_options("optimizer=adam")
    config = finished(tmp_path, "optimizer=adam", "checkpoint.keep=1")
    config.steps = 20
    path = tmp_path / "run" / "checkpoints" / "step_12.pt"
    for corrupt, line in ((lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
                         r"step_12\.pt: not a checkpoint of a run with this .*exp_avg has shape \(3,\)"),
                        (lambda content: content["hidden"].clear(), "has 0 hidden states")):  # fmt: skip
        content = checkpoint.load(path)
        corrupt(content)
        original = path.read_bytes()
        checkpoint.save(tmp_path / "run", content, keep=1)
        with pytest.raises(UserError, match=line):
            execute_in_folder(config, tmp_path / "run", resumed=True)
        path.write_bytes(original)


# -- the program


def test_the_program_resumes_a_run_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml gets the new settings, .hydra is not changed, and train.log is appended to."""
    arguments = [f"data.path={text_file(tmp_path)}", *TEXT, *COMMON]
    assert run(TRAIN, *arguments, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    hydra_files = {path: path.read_bytes() for path in (folder / ".hydra").iterdir()}
    done = run(TRAIN, "resume=latest", "steps=15", "log.every=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "outputs" / "runs").iterdir()] == [folder.name]
    assert load(folder).steps == 15
    assert load(folder).log.every == 2
    assert load(folder).resume is None
    assert {path: path.read_bytes() for path in (folder / ".hydra").iterdir()} == hydra_files
    log = (folder / "train.log").read_text()
    assert "resumed after step 12 from step_12.pt" in log
    assert log.index("finished (step 12 of 12)") < log.index("finished (step 15 of 15)")
    shown = shown_scalars(folder)
    assert [step for step, _ in shown["loss/train"]] == [*range(1, 13), 14, 15]
    for tag, found in scalars(folder).items():
        assert [step for step, _ in shown.get(tag, found)] == [step for step, _ in found]
    assert actual_state(folder) == "finished"
    with pytest.raises(SystemExit) as end:
        preflight(PROJECT, ["train.py", f"resume={folder}", "steps=20", "--cfg", "job"])
    assert end.value.code == 0
    assert "steps: 20\n" in capsys.readouterr().out
    assert load(folder).steps == 15


def test_a_clock_set_back_before_a_resume_hides_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard sorts event files by the times in their names, and would read the second one first."""
    config = config_for(tmp_path, TEXT)
    execute_in_folder(config, tmp_path / "uninterrupted")
    end_at_steps(monkeypatch, {7: signal.SIGTERM})
    execute_in_folder(config, tmp_path / "run")
    monkeypatch.setattr("time.time", lambda: 1.6e9)
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert len(list((tmp_path / "run").glob("events*"))) == 2
    for tag, found in shown_scalars(tmp_path / "uninterrupted").items():
        if tag not in TIMES:
            assert sorted(shown_scalars(tmp_path / "run")[tag]) == found


def test_a_resumed_job_has_one_row_in_hparams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start and the end of HParams are each written once."""
    end_at_steps(monkeypatch, {7: signal.SIGTERM})
    for resumed in (False, True):
        run = Run(tmp_path / "run", STEPS, resumed=resumed, swept={"clip.max": 1.0})
        with run.recorded():
            execute(config_for(tmp_path, TEXT), run)
    found = [(tag, step) for tag, step, _ in points(tmp_path / "run") if "hparams" in tag]
    assert found == [("_hparams_/session_start_info", 0), ("_hparams_/session_end_info", 0)]


# -- init_from


def test_init_from_starts_a_new_run_with_saved_weights(tmp_path: Path) -> None:
    finished(tmp_path)
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    rate = ("optimizer.lr=1e-12", "checkpoint.every=1", "checkpoint.keep=20")
    config = config_for(tmp_path, (*TEXT, f"init_from={best}", *rate))
    execute_in_folder(config, tmp_path / "tuned")
    first = checkpoint.load(tmp_path / "tuned" / "checkpoints" / "step_1.pt")
    for name, weight in checkpoint.load(best)["model"].items():
        torch.testing.assert_close(first["model"][name], weight, rtol=0, atol=1e-9)
    assert first["step"] == 1
    with pytest.raises(
        UserError, match=r"recurrent\.weight_ih_l0 has shape \(8, 4\) in the file, \(9, 4\) in the model"
    ):
        execute_in_folder(config_for(tmp_path, (*TEXT, f"init_from={best}", "model.hidden=9")), tmp_path / "other")
