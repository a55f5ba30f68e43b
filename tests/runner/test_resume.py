"""A run that is interrupted and resumed equals, bit for bit, one that was never interrupted."""

import re
import shlex
import signal
from pathlib import Path

import pytest

from runner.compose import load
from runner.errors import UserError, quote_override
from runner.runs import checkpoint
from runner.runs.run import Run
from runner.runs.status import actual_state
from runner.tracking.events import EVENT_FILES
from tests import programs
from tests.comparison import assert_identical, assert_same_run, points, scalars
from tests.runner.support import PROJECT, TRAIN, compose, files, program, refused, status, train, wait_for
from tests.runner.toy.toy import Toy

# The loss rises, so that only the first evaluation is the best, and what is logged after it belongs to no checkpoint.
STEPS = 12
CONFIG = "config/text_summary"
RISING = (f"steps={STEPS}", "evaluate_every=2", "checkpoint.every=4", "lr=1.0", "clip=zclip", "incident=incident",
          "log.gradient_norms=true", "log.histograms=true")  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with the arguments RISING."""
    here = tmp_path_factory.mktemp("whole")
    assert program(*RISING, "hydra.run.dir=run", cwd=here).returncode == 0
    assert status(here / "run")["objective"] == checkpoint.load(here / "run" / "checkpoints" / "best.pt")["best"]
    return here


def resumed(whole: Path, folder: Path) -> None:
    """Resumes the run, and compares it with the uninterrupted one."""
    done = program(f"resume={folder}", cwd=whole)
    assert done.returncode == 0, done.stderr
    assert status(folder)["state"] == "finished"
    assert status(folder)["objective"] == status(whole / "run")["objective"]
    assert_same_run(whole / "run", folder, STEPS)


@pytest.mark.parametrize("step", [3, 7, 12])
def test_a_killed_run_is_resumed(whole: Path, step: int) -> None:
    """Before any checkpoint but the best one, between two checkpoints, and before the last step."""
    (whole / "incident").write_text(f"kill {step}")
    killed = program(*RISING, f"hydra.run.dir=killed_{step}", cwd=whole)
    assert killed.returncode == -signal.SIGKILL
    folder = whole / f"killed_{step}"
    assert actual_state(folder) == "killed"
    (whole / "incident").unlink()
    (events,) = folder.glob(EVENT_FILES)
    found = checkpoint.load_newest(folder)
    assert found is not None
    if step == 7:
        assert events.stat().st_size > found[1]["logs"][events.name], "no point after the checkpoint"
    resumed(whole, folder)
    assert len(list(folder.glob(EVENT_FILES))) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_an_interrupted_run_finishes_its_step_and_is_resumed(whole: Path, number: signal.Signals) -> None:
    (whole / "incident").write_text("wait 7")
    (reached := whole / "incident.reached").unlink(missing_ok=True)
    folder = whole / number.name
    with programs.Program(TRAIN, *RISING, f"hydra.run.dir={folder}", cwd=whole) as run:
        wait_for(reached.exists)
        if number == signal.SIGINT:
            busy = program(f"resume={folder}", cwd=whole)
            line = f"error: resume={folder}: process {run.pid} is training in it\n"
            assert (busy.returncode, busy.stderr) == (2, line)
        run.send_signal(number)
        output, errors = run.communicate(timeout=60)
    (whole / "incident").unlink()
    assert (run.returncode, errors) == (128 + number, "")
    assert f"to resume    python train.py resume={number.name}" in output
    found = status(folder)
    assert (found["state"], found["reason"], found["step"]) == ("interrupted", number.name, 7)
    assert checkpoint.find(folder, "7").exists()
    resumed(whole, folder)


@pytest.mark.parametrize("name", ["a b[c], d", 'it\'s "x"=$y', "~a\\b"])
def test_the_printed_commands_run_as_a_shell_reads_them(whole: Path, name: str) -> None:
    """For a run in a folder whose name has special characters of a shell, of Hydra's grammar or of both."""
    (whole / "incident").write_text("wait 7")
    (reached := whole / "incident.reached").unlink(missing_ok=True)
    arguments = (*RISING, f"hydra.run.dir={quote_override(f'./{name}')}")
    with programs.Program(TRAIN, *arguments, cwd=whole) as run:
        wait_for(reached.exists)
        run.send_signal(signal.SIGTERM)
        output, errors = run.communicate(timeout=60)
    (whole / "incident").unlink()
    assert (run.returncode, errors) == (143, "")
    assert shlex.split(printed("TensorBoard", output)) == ["tensorboard", "--logdir", name]
    python, script, *resume = shlex.split(printed("to resume", output))
    assert (python, script) == ("python", TRAIN.name)
    done = program(*resume, cwd=whole)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_run(whole / "run", whole / name, STEPS)


def printed(row: str, output: str) -> str:
    """The text of a row in the summary of a run."""
    (text,) = re.findall(rf"^{row} +(.*)$", output, re.MULTILINE)
    return str(text)


def test_a_damaged_checkpoint_is_renamed(whole: Path) -> None:
    """Counted among the newest, it would cause good ones to be deleted. Half-written files are deleted."""
    folder = whole / "damaged"
    assert program(*RISING, f"hydra.run.dir={folder}", "steps=9", cwd=whole).returncode == 0
    last = folder / "checkpoints" / "step_9.pt"
    last.write_bytes(last.read_bytes()[:-1])
    part = folder / "checkpoints" / ".step_9.pt.part"
    part.touch()
    done = program(f"resume={folder}", f"steps={STEPS}", cwd=whole)
    assert f"{last}: damaged, or not a checkpoint of this program; it is skipped" in done.stdout
    assert last.with_suffix(".pt.damaged").exists()
    assert not part.exists()
    expected = scalars(whole / "run")
    assert scalars(folder) | {CONFIG: []} == expected | {CONFIG: []}
    one, other = (checkpoint.load(where / "checkpoints" / "step_12.pt") for where in (folder, whole / "run"))
    assert_identical(one | {"logs": None}, other | {"logs": None})


# -- changes of the configuration


def finished(folder: Path, *overrides: str) -> None:
    done = program("hydra.run.dir=run", *overrides, cwd=folder)
    assert done.returncode == 0, done.stderr


REFUSED = [
    (
        "clip.max=3 seed=4",
        "clip.max=3.0, seed=4: would make it another run; init_from=run/checkpoints/best.pt",
    ),
    ("target=2 steps=9", "target=2.0: would make it another run"),
    ("clip=value", "clip=value: another option cannot be chosen when a run is resumed; what can change"),
    (
        "experiment=wild",
        "experiment=wild: another option cannot be chosen when a run is resumed; what can change",
    ),
    ("stesp=3", "stesp=3: no such key; did you mean steps?"),
    ("steps=0", "steps=0: must be a whole number of at least 1"),
    ("steps=7,8", "steps=7,8: one run is resumed at a time"),
    ("+steps=30", "+steps=30: a key cannot be added or deleted when a run is resumed"),
    ("~seed", "~seed: a key cannot be added or deleted when a run is resumed"),
    ("hydra.verbose=true", "hydra.verbose=true: a run is resumed in its own folder, and not started by Hydra; what"),
    ("hydra.run.dir=x", "hydra.run.dir=x: a run is resumed in its own folder"),
    ("-m steps=30", "resume=run: cannot be combined with --multirun"),
    ("log.every=2", "run: the run has finished its 6 steps; add steps=12 to train it longer"),
    ("initial=x steps=30", "would make it another run"),
]


def test_a_change_that_would_make_it_another_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    for arguments, line in REFUSED:
        assert line in refused(["resume=run", *arguments.split()], capsys), arguments
    assert files(tmp_path) == before
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "config.yaml").touch()
    for name, line in (("nope", "there is no folder nope"), ("latest", "there is no folder outputs/latest"),
                       ("run/config.yaml", "not the folder of a run"),
                       ("run/checkpoints", "resume=run/checkpoints: not the folder of a run; it has no config.yaml"),
                       ("sweep", "resume=sweep: a sweep; name one of its jobs: sweep/0")):  # fmt: skip
        assert line in refused([f"resume={name}"], capsys)


def test_a_key_that_is_mutable_on_resume_may_change(tmp_path: Path) -> None:
    """In the same folder; config.yaml has the new values, and the earlier log and Hydra's files are kept."""
    finished(tmp_path)
    folder = tmp_path / "run"
    hydras = files(folder / ".hydra")
    done = program("resume=run", "steps=9", "log.every=2", "evaluate_every=9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = load(folder, PROJECT)
    assert config == compose("steps=9", "log.every=2", "evaluate_every=9")
    assert files(folder / ".hydra") == hydras
    text = (folder / "train.log").read_text()
    assert text.index("finished (step 6 of 6)") < text.index("resumed after step 6") < text.index("(step 9 of 9)")
    assert [step for step, _ in scalars(folder)["loss/train"]] == [*range(1, 7), 8, 9]
    asked = program("resume=run", "steps=20", "--cfg", "job", cwd=tmp_path)
    assert "steps: 20\n" in asked.stdout
    assert load(folder, PROJECT) == config


def test_paths_of_a_resumed_run_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is relative to the working directory of the resumed run, and ~ is the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    finished(tmp_path)
    for word, expected in (("other", tmp_path / "later" / "other"), ("'~/other'", tmp_path / "other")):
        (tmp_path / "later").mkdir(exist_ok=True)
        done = program("resume='~/run'", f"incident={word}", f"steps={9 + len(word)}", cwd=tmp_path / "later")
        assert done.returncode == 0, done.stderr
        assert load(tmp_path / "run", PROJECT).incident == str(expected)


def test_a_run_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configuration lacks a key, or has one that no longer exists."""
    finished(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = (tmp_path / "run" / "config.yaml").read_text()
    for other, what in ((config.replace("target: 1.0\n", ""), "the key target is missing in it"),
                        (config + "fold: true\n", "this version has no key fold")):  # fmt: skip
        (tmp_path / "run" / "config.yaml").write_text(other)
        line = refused(["resume=run", "steps=9"], capsys)
        assert line.endswith(f"run/config.yaml: written by another version of this program: {what}")


def test_a_key_with_a_default_that_was_added_later_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project adds keys; its earlier runs can still be read and resumed."""
    finished(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("  keep_going: false\n", ""))
    assert load(tmp_path / "run", PROJECT).sweep.keep_going is False
    done = program("resume=run", "steps=9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_removed_key_of_a_resumed_run_is_answered_with_what_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Toy, "removed", {"parts": "pieces=2 does the same"})
    assert refused(["resume=run", "parts=2"], capsys) == "parts=2: no such key; pieces=2 does the same"


def test_a_project_can_fix_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path, "schedule=linear")
    monkeypatch.chdir(tmp_path)
    assert refused(["resume=run", "steps=30"], capsys) == "steps=30: schedule=linear spans all steps"
    assert refused(["resume=run"], capsys) == "run: the run has finished its 6 steps"


def test_a_refused_resume_changes_no_file(tmp_path: Path) -> None:
    """Neither the configuration, without which the run could not be resumed later, nor the status."""
    train(compose(), tmp_path / "run")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"step_6\.pt: saved with another seed"):
        train(compose("seed=2", "steps=9"), tmp_path / "run", resumed=True)
    assert files(tmp_path) == before


def test_a_resumed_run_is_running_only_after_begin(tmp_path: Path) -> None:
    train(compose(), tmp_path)
    run = Run(tmp_path, 9, resumed=True)
    assert status(tmp_path)["state"] == "finished"
    with run.recorded():
        run.begin(compose("steps=9"), step=3, objective=0.5)
        found = status(tmp_path)
    assert [found[name] for name in ("state", "step", "steps", "objective")] == ["running", 3, 9, 0.5]


def test_a_run_without_a_checkpoint_is_resumed_from_step_1(tmp_path: Path) -> None:
    train(compose(), tmp_path / "whole")
    train(compose(), tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    train(compose(), tmp_path / "run", resumed=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run", 6)


def test_a_missing_event_file_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(compose(), tmp_path)
    (events,) = tmp_path.glob(EVENT_FILES)
    events.unlink()
    train(compose("steps=9"), tmp_path, resumed=True)
    assert f"{events}: missing; the points in it are lost" in caplog.messages


def test_a_resumed_job_keeps_its_row_in_hparams(tmp_path: Path) -> None:
    """The start of its HParams session is written once."""
    train(compose(), tmp_path, swept={"seed": 1})
    train(compose("steps=9"), tmp_path, resumed=True, swept={"seed": 1})
    found = [(tag, step) for tag, step, _ in points(tmp_path) if tag == "_hparams_/session_start_info"]
    assert found == [("_hparams_/session_start_info", 0)]
