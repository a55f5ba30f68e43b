"""A run that was ended anywhere and goes on is, bit for bit, the run that was never ended."""

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
from tests.comparison import assert_identical, assert_same_run, points, scalars, shown_scalars
from tests.programs import run
from tests.support import ROOT
from tests.trainer.options import missing, names, need_precision
from tests.trainer.resumption import COMMON, DIGITS, LINE, STEPS, TEXT, Killed, config_for, ended_at, until_done
from tests.trainer.support import compose, refused, text_file
from trainer.config import Train
from trainer.config.data import Data
from trainer.config.model import Model
from trainer.history import MAX_NORMS, History
from trainer.project import PROJECT, composer, load
from trainer.randomness import rng_state, set_rng_state
from trainer.run import execute, execute_in_folder

TRAIN = ROOT / "train.py"
# Models, data sets, policies, optimizers and schedules, with whatever else carries something from step to step.
ALL_PAIRS = [
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
    ("data=temporal_order", "data.length=12", "model.hidden=8", "clip=zclip", "optimizer.lr=0.1", "log.flow=true"),
]  # fmt: skip


def on_text(pair: tuple[str, ...]) -> tuple[str, ...]:
    """The same with the default model and data, for a pair whose own have been deleted."""
    return (*TEXT, *(each for each in pair if not each.startswith(("model", "data"))))


def others(pairs: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """A pair for each option that these do not choose, such as those that a fork adds."""
    chosen = {override for pair in pairs for override in pair}
    for group in ("clip", "optimizer", "schedule"):
        yield from ((*TEXT, f"{group}={name}") for name in names(group) if f"{group}={name}" not in chosen)
    for model, data in product(names("model"), names("data")):
        taken = Data.options[data].kind in Model.options[model].takes
        if taken and not {f"model={model}", f"data={data}"} <= chosen | {"model=rnn", "data=text"}:
            chosen |= {f"model={model}", f"data={data}"}
            yield f"model={model}", f"data={data}", "optimizer.lr=0.01"


KNOWN = list(dict.fromkeys(on_text(pair) if missing(pair) else pair for pair in ALL_PAIRS))
PAIRS = [*KNOWN, *others([*KNOWN, ("optimizer=sgd", "schedule=constant")])]


@pytest.mark.parametrize("overrides", PAIRS, ids=lambda pair: " ".join(each for each in pair if each not in TEXT))
def test_a_run_that_goes_on_is_the_run_that_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    """Killed before the first checkpoint, in the middle of an epoch, at its end (4, 5), and stopped by a signal."""
    need_precision(overrides)
    config = config_for(tmp_path, overrides)
    assert execute_in_folder(config, tmp_path / "whole").state == "finished"
    ended_at(monkeypatch, {2: None, 6: None, 7: signal.SIGTERM, 9: signal.SIGUSR1, 11: None, 12: None})
    ends = until_done(config, tmp_path / "parts")
    assert ends == ["killed", "killed", "interrupted", "interrupted", "killed", "killed", "finished"]
    assert_same_run(tmp_path / "whole", tmp_path / "parts", STEPS)


@pytest.mark.parametrize("step", [1, 5, 8])
def test_any_step_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """With dropout, a memory, momentum and a hidden state; an epoch ends at 5."""
    config = config_for(tmp_path, (*TEXT, "model.layers=2", "model.dropout=0.3", "clip=zclip", "optimizer=adam"))
    execute_in_folder(config, tmp_path / "whole")
    ended_at(monkeypatch, {step: signal.SIGINT})
    assert until_done(config, tmp_path / "parts") == ["interrupted", "finished"]
    assert_same_run(tmp_path / "whole", tmp_path / "parts", STEPS)


def test_a_run_that_was_killed_after_its_last_step_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it could write its last checkpoint beside the best one, or say that it has finished."""
    config, real = config_for(tmp_path, TEXT), checkpoint.save

    def save(folder: Path, content: dict[str, Any], *, keep: int) -> None:
        if content["step"] == STEPS:
            raise Killed
        real(folder, content, keep=keep)

    def show(*arguments: Any, **named: Any) -> None:
        raise Killed

    execute_in_folder(config, tmp_path / "whole")
    for place, name, killed in ((checkpoint, "save", save), (summary, "show", show)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(Killed):
                execute_in_folder(config, tmp_path / name)
        assert (tmp_path / name / "checkpoints" / "step_12.pt").exists() == (name == "show")
        assert execute_in_folder(config, tmp_path / name, resumed=True).state == "finished"
        assert_same_run(tmp_path / "whole", tmp_path / name, STEPS)


def test_a_run_that_is_killed_at_what_it_does_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In turn before and after a syncing, renaming, deleting or cutting: of a checkpoint, the status, the events."""
    config = config_for(tmp_path, (*TEXT, "checkpoint.every=2", "evaluate_every=3", "clip=zclip", "optimizer=adam"))
    execute_in_folder(config, tmp_path / "whole")
    count = 0

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            ends = count < 80 and count % 11 == 0  # every start cuts one more file, and would get no further
            if ends and count % 2:
                raise Killed
            result = real(*arguments, **named)
            if ends:
                raise Killed
            return result

        return call

    for where, name in ((os, "fsync"), (os, "truncate"), (Path, "replace"), (Path, "unlink"), (Path, "rename")):
        monkeypatch.setattr(where, name, deadly(getattr(where, name)))
    assert until_done(config, tmp_path / "parts") == ["killed"] * 7 + ["finished"]
    assert_same_run(tmp_path / "whole", tmp_path / "parts", STEPS)


def test_a_signal_before_the_last_step_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path, TEXT)
    ended_at(monkeypatch, {STEPS - 1: signal.SIGTERM})
    assert execute_in_folder(config, tmp_path / "run").state == "finished"


def test_divergence_comes_at_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path, (*TEXT, "clip=none", "optimizer.lr=20", "log.every=2"))
    assert execute_in_folder(config, tmp_path / "whole").state == "diverged"
    ended_at(monkeypatch, {3: signal.SIGTERM, 4: None})
    assert until_done(config, tmp_path / "parts")[-1] == "diverged"
    found = [json.loads((tmp_path / name / "status.json").read_text()) for name in ("whole", "parts")]
    assert found[0]["step"] > 4
    assert [found[1][key] for key in ("step", "reason")] == [found[0][key] for key in ("step", "reason")]
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "parts")


# -- the parts


def test_every_generator_is_set_back(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.random(), np.random.standard_normal(), np.random.random(), torch.rand(()).item()

    draw()  # NumPy then holds the second half of a pair of normal numbers
    path = checkpoint.save(tmp_path, {"random": rng_state(), "step": 1}, keep=1)
    after = draw(), draw()
    set_rng_state(checkpoint.load(path)["random"])
    assert (draw(), draw()) == after


def test_the_history_of_a_long_run_keeps_its_size() -> None:
    history, values = History(), [math.sin(step) for step in range(5 * MAX_NORMS)]
    for value in values:
        history.add_step(1.0, value, False)
    assert MAX_NORMS // 2 <= len(history.before) < MAX_NORMS
    assert list(history.before) == values[:: history.stride]
    assert history.logged == len(values)
    copy = History()
    copy.load_state_dict(history.state_dict())
    assert copy == history


# -- which checkpoint


def test_a_damaged_checkpoint_is_named_and_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Or, counted among the newest, it would push good ones out."""
    config = config_for(tmp_path, (*TEXT, "evaluate_every=100", "checkpoint.every=4", "checkpoint.keep=2"))
    execute_in_folder(config, tmp_path / "whole")
    execute_in_folder(config, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "best.pt").unlink()
    (folder / "step_12.pt").write_bytes((folder / "step_12.pt").read_bytes()[:-1])
    for place in (folder, folder.parent):
        (place / ".half.pt.part").touch()
    with caplog.at_level("INFO"):
        execute_in_folder(config, tmp_path / "run", resumed=True)
    assert f"{folder / 'step_12.pt'}: damaged, or not a checkpoint of this program; it is skipped" in caplog.messages
    assert "resumed after step 8 from step_8.pt" in caplog.messages
    assert {path.name for path in folder.iterdir()} == {"step_8.pt", "step_12.pt", "step_12.pt.damaged", "best.pt"}
    assert not (folder.parent / ".half.pt.part").exists()
    assert_same_run(tmp_path / "whole", tmp_path / "run", STEPS)


def test_checkpoints_of_an_older_version_are_refused_by_their_format(tmp_path: Path) -> None:
    """In one line, and left as they are."""
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


def test_the_best_checkpoint_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken where it is newer than the others."""
    config = config_for(tmp_path, (*TEXT, "evaluate_every=5", "checkpoint.every=4"))
    execute_in_folder(config, tmp_path / "whole")
    ended_at(monkeypatch, {7: None})
    with pytest.raises(Killed):
        execute_in_folder(config, tmp_path / "run")
    found = checkpoint.load_newest(tmp_path / "run")
    assert found is not None
    assert (found[0].name, found[1]["step"]) == ("best.pt", 5)
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run", STEPS)


# -- what may change


def finished(folder: Path, *overrides: str) -> Train:
    """The configuration of a small run that has ended, in folder/run."""
    config = config_for(folder, (*TEXT, *overrides))
    (folder / "run").mkdir()
    save_config(config, folder / "run")
    assert execute_in_folder(config, folder / "run").state == "finished"
    return config


CHANGES = {
    "steps": "15", "evaluate_every": "7", "check_every": "2", "detect_anomaly": "true", "log.every": "5",
    "log.parameters_every": "2", "log.progress": "true", "checkpoint.every": "7", "checkpoint.keep": "5",
    "divergence.factor": "null", "data.sample": "30", "log.first_steps": "2", "log.flow": "true",
    "log.histograms": "true", "diagnosis.explode": "9", "diagnosis.vanish_layer": "0", "diagnosis.vanish_weight": "0",
    "diagnosis.smoothing": "0.5", "diagnosis.patience": "9", "init_from": "moved.pt",
}  # fmt: skip


def test_a_longer_run_is_the_run_that_was_asked_for_at_once(tmp_path: Path) -> None:
    """With all that may change changed: the same weights."""
    kept = ("clip=zclip", "model.dropout=0.2", "data.window=20")  # anomaly detection keeps a traceback of every factor
    finished(tmp_path, *kept)
    changed = config_for(tmp_path, (*TEXT, *kept, *map("=".join, CHANGES.items())))
    changed.data.path = str(shutil.move(changed.data.path, tmp_path / "moved.txt"))
    keys = dict(PROJECT.all_keys())
    mutable = {name for name, field in keys.items() if field.metadata.get("mutable_on_resume")}
    assert (set(CHANGES) | {"data.path", "data.workers", "resume"}) & keys.keys() == mutable
    execute_in_folder(replace(changed, init_from=None), tmp_path / "whole")
    execute_in_folder(changed, tmp_path / "run", resumed=True)
    one, other = (checkpoint.load(tmp_path / name / "checkpoints" / "step_15.pt") for name in ("whole", "run"))
    for part in ("model", "optimizer", "clipper", "random", "hidden"):
        assert_identical(one[part], other[part], part)
    assert load(tmp_path / "run") == changed


REFUSED = [
    ("clip.max=3 seed=4", "clip.max=3.0, seed=4: would make it another run; what can change is check_every,"),
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
    ("log.every=2", "run: has finished its 12 steps; steps=24 trains longer"),
    ("data.workers=2", "data.workers=2: no such key in data=text"
     + ("" if missing(["data=digits"]) else "; it belongs to data=digits")),
]  # fmt: skip


def test_overrides_that_would_make_it_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments, line in REFUSED:
        assert line in refused(["resume=run", *arguments.split()], capsys), arguments
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "config.yaml").touch()
    for name, line in (("nope", "resume=nope: there is no nope"), ("latest", "there is no outputs/latest"),
                       ("small.txt", "not the folder of a run"), (".", "resume=.: a sweep; name one of its jobs: "),
                       ("run/checkpoints", "resume=run/checkpoints: not a run; it has no config.yaml"),
                       ("sweep", "resume=sweep: a sweep; name one of its jobs: sweep/0")):  # fmt: skip
        assert line in refused([f"resume={name}"], capsys)
    assert {path: path.read_bytes() for path in before} == before


OTHER = ("data=digits", "model=mlp")
OTHERS = {str: ("drop", "relu", "bfloat16"), bool: ("true", "false"), list: ("[x]", "[3]"), type(None): ("1", "x")}


@pytest.mark.parametrize("overrides", [(), (*(() if missing(OTHER) else OTHER), "clip=agc", "schedule=cosine")])
def test_no_key_slips_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]) -> None:
    """Every key of a configuration is given other values: those taken change nothing but what extends a run."""
    saved = compose(*overrides)
    monkeypatch.setattr(resume, "load", lambda folder, project: copy.deepcopy(saved))
    before, taken = flatten(saved), set()
    for name, value in before.items():
        numbers = (value + 1, value / 2) if type(value) in (int, float) else ()
        for new in [*OTHERS.get(type(value), ()), *numbers]:
            with contextlib.suppress(UserError, InvalidField, OmegaConfBaseException, HydraException):
                later = flatten(resume.resumed_settings(tmp_path, PROJECT, composer().parse([f"{name}={new}"])))
                taken |= {key for key, here in later.items() if here != before[key]}
    kept = {"resume", "steps"} if "schedule=cosine" in overrides else {"resume"}
    mutable = {name for name, field in PROJECT.all_keys() if field.metadata.get("mutable_on_resume")}
    assert taken == (mutable & before.keys()) - kept


def test_another_number_of_steps_is_another_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path, "schedule=cosine")
    monkeypatch.chdir(tmp_path)
    line = refused(["resume=run", "steps=30"], capsys)
    assert line == "steps=30: schedule=cosine spans all steps, so that every rate changes"
    assert refused(["resume=run"], capsys) == "run: has finished its 12 steps"
    assert refused(["resume=run,other"], capsys).startswith("resume=run,other: one run is resumed at a time")


def test_what_was_saved_by_another_configuration_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    for overrides, line in (
        (("clip.max=3", "steps=20"), r"step_12\.pt: saved with another clip\.max than"),
        (("steps=5",), r"steps=5: .*step_12\.pt has completed 12 already"),
    ):
        with pytest.raises(UserError, match=line):
            execute_in_folder(config_for(tmp_path, (*TEXT, *overrides)), tmp_path / "run", resumed=True)


def test_data_that_moved_is_accepted_by_its_content(tmp_path: Path) -> None:
    """From another path, relative to the current folder, and in another encoding; the run remembers it."""
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


def test_weights_to_start_from_that_moved_before_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path)
    best, moved = tmp_path / "run" / "checkpoints" / "best.pt", tmp_path / "moved.pt"
    config = config_for(tmp_path, (*TEXT, f"init_from={best}"))
    ended_at(monkeypatch, {1: None})
    with pytest.raises(Killed):
        execute_in_folder(config, tmp_path / "tuned")
    save_config(config, tmp_path / "tuned")
    best.rename(moved)
    done = run(TRAIN, "resume=tuned", "init_from=moved.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "init_from" not in done.stderr


def test_a_refused_continuation_leaves_no_trace(tmp_path: Path) -> None:
    """Neither in the configuration, or the run could go on no more, nor in its status, or it would have failed."""
    finished(tmp_path)
    folder, weights, text = tmp_path / "run", tmp_path / "weights.pt", tmp_path / "small.txt"
    (folder / "checkpoints" / "best.pt").rename(weights)
    shutil.rmtree(folder)
    config = finished(tmp_path, f"init_from={weights}")
    weights.unlink()  # they are in the checkpoints now
    (folder / "checkpoints" / "step_13.pt").touch()
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"state": "interrupted"}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text.write_text((whole := text.read_text()) + "more")
    with pytest.raises(UserError, match="the data has changed"):
        execute_in_folder(config, folder, resumed=True)
    text.write_text(whole)
    done = run(TRAIN, "resume=run", "steps=11", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    assert "steps=11: " in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert run(TRAIN, "resume=run", "steps=14", cwd=tmp_path).returncode == 0
    assert (read_status(folder)["state"], load(folder).steps, config.steps) == ("finished", 14, STEPS)
    assert (folder / "checkpoints" / "step_13.pt.damaged").exists()


def test_a_machine_that_sums_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = finished(tmp_path)
    config.steps = 13
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert "to rounding only" not in caplog.text
    config.steps = 14
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert re.search(r"saved with .*threads: 1; resumed with .*threads: 7: results can differ by rounding", caplog.text)


def test_an_event_file_that_is_gone_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = finished(tmp_path)
    (events,) = (tmp_path / "run").glob("events*")
    events.unlink()
    config.steps = 13
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert f"{events}: missing; the points in it are lost" in caplog.messages


def test_weights_that_fit_beside_a_state_that_does_not(tmp_path: Path) -> None:
    """torch takes an optimizer's state of any shape, and its fused step would write past the end of a smaller one."""
    config = finished(tmp_path, "optimizer=adam", "checkpoint.keep=1")
    config.steps = 20
    path = tmp_path / "run" / "checkpoints" / "step_12.pt"
    for spoil, line in ((lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
                         r"step_12\.pt: not a checkpoint of a run with this .*exp_avg has shape \(3,\)"),
                        (lambda content: content["hidden"].clear(), "has 0 hidden states")):  # fmt: skip
        content = checkpoint.load(path)
        spoil(content)
        whole = path.read_bytes()
        checkpoint.save(tmp_path / "run", content, keep=1)
        with pytest.raises(UserError, match=line):
            execute_in_folder(config, tmp_path / "run", resumed=True)
        path.write_bytes(whole)


# -- the program


def test_the_program_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the same folder, with what extends it written into its configuration, and its first log kept."""
    arguments = [f"data.path={text_file(tmp_path)}", *TEXT, *COMMON]
    assert run(TRAIN, *arguments, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    hydras = {path: path.read_bytes() for path in (folder / ".hydra").iterdir()}
    done = run(TRAIN, "resume=latest", "steps=15", "log.every=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [each.name for each in (tmp_path / "outputs" / "runs").iterdir()] == [folder.name]
    assert load(folder).steps == 15
    assert load(folder).log.every == 2
    assert load(folder).resume is None
    assert {path: path.read_bytes() for path in (folder / ".hydra").iterdir()} == hydras
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


def test_a_clock_that_was_set_back_hides_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads the files by the seconds in their names, and the later one would come first."""
    config = config_for(tmp_path, TEXT)
    execute_in_folder(config, tmp_path / "whole")
    ended_at(monkeypatch, {7: signal.SIGTERM})
    execute_in_folder(config, tmp_path / "run")
    monkeypatch.setattr("time.time", lambda: 1.6e9)
    execute_in_folder(config, tmp_path / "run", resumed=True)
    assert len(list((tmp_path / "run").glob("events*"))) == 2
    for tag, found in shown_scalars(tmp_path / "whole").items():
        if tag != "steps_per_second":
            assert sorted(shown_scalars(tmp_path / "run")[tag]) == found


def test_a_job_of_a_sweep_keeps_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HParams' start is a point of the run too, and is not written twice; its end comes when it is over."""
    ended_at(monkeypatch, {7: signal.SIGTERM})
    for resumed in (False, True):
        run = Run(tmp_path / "run", STEPS, resumed=resumed, swept={"clip.max": 1.0})
        with run.recorded():
            execute(config_for(tmp_path, TEXT), run)
    found = [(tag, step) for tag, step, _ in points(tmp_path / "run") if "hparams" in tag]
    assert found == [("_hparams_/session_start_info", 0), ("_hparams_/session_end_info", 0)]


# -- init_from


def test_a_new_run_from_saved_weights(tmp_path: Path) -> None:
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
