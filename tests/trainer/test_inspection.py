"""scripts/inspect_gradients.py: the table, the marks, the norms by time step, the plot, and user errors."""

import itertools
import logging
import math
import shlex
from pathlib import Path

import pytest
import torch

from scripts import inspect_gradients
from tests.support import exact_norm
from tests.trainer.options import option_names, require_options
from tests.trainer.support import SMALL, compose, first_steps_table, inspect_output, table_rows, text_file, train_small
from trainer import inspection, inspection_plot, loop
from trainer.monitor.marks import ParameterNorms
from trainer.run import execute_in_folder
from trainer.state import build


def test_the_table_has_the_norms_of_weights_and_gradients(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    overrides = [f"data.path={text_file(tmp_path)}", *SMALL, "clip.max=0.05"]
    state = build(compose(*overrides))
    before = {name: exact_norm([parameter]) for name, parameter in state.model.named_parameters()}
    loop.forward_backward(state, next(state.data.batches(0)))
    norms = {name: exact_norm([parameter.grad]) for name, parameter in state.model.named_parameters()}
    total = math.hypot(*norms.values())
    assert total > 0.05
    found = table_rows(inspect_output(capsys, shlex.join(overrides)))
    for name, (_, weight, earlier, gradient, after, ratio) in found.items():
        assert earlier == "None"
        assert float(weight) == pytest.approx(before[name], rel=1e-3)
        assert float(gradient) == pytest.approx(norms[name], rel=1e-3)
        assert float(after) == pytest.approx(norms[name] * 0.05 / total, rel=1e-3)
        assert float(ratio) == pytest.approx(norms[name] / before[name], rel=2e-3)


@pytest.mark.parametrize(
    ("arguments", "marks"),
    [("experiment=depth model.layers=12", {"exploding, clipped"}), ("experiment=depth clip=none", {"exploding"}),
     ("experiment=depth model.gain=0.5", {"vanishing"}), ("experiment=depth model.gain=1", set()),
     ("experiment=line_120", {"exploding, clipped", "never used"}), ("experiment=digits", set()), ("", set())],
)  # fmt: skip
def test_experiments_have_the_expected_marks(arguments: str, marks: set[str]) -> None:
    require_options(*arguments.split())
    config = compose(*arguments.split())
    assert set(inspection.inspect(config, 1).marks.values()) == marks


def test_norms_by_time_step_do_not_depend_on_micro_batches(tmp_path: Path) -> None:
    overrides = [f"data.path={text_file(tmp_path)}", *SMALL]
    norms = []
    for count in (1, 3):
        state = build(compose(*overrides, f"micro_batches={count}"))
        sizes: list[int] = []
        state.model.register_forward_pre_hook(lambda module, inputs, sizes=sizes: sizes.append(len(inputs[0])))
        norms.append(inspection.through_time(state, next(state.data.batches(0))))
        assert sum(sizes) == 4
        assert len(sizes) == count
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_an_inspection_stops_at_a_non_finite_gradient(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    unstable = ("clip=none", "model.nonlinearity=relu", "optimizer.lr=1e30")
    overrides = [f"data.path={text_file(tmp_path)}", *SMALL, *unstable, "steps=9"]
    text = inspect_output(capsys, shlex.join([*overrides, "--steps", "9"]))
    assert text.startswith("step 2;")
    assert "stopped at step 2 of 9: a gradient is not finite" in text
    assert "non-finite: an element of the gradient is nan or infinite" in text
    assert "update: " not in text
    text = inspect_output(capsys, shlex.join([*overrides, "--steps", "2"]))
    assert "stopped at step 2 of 2: a gradient is not finite" in text
    assert "update: " not in text


def test_an_inspection_shows_the_steps_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With its schedule, its repeated batches and its initial weights."""
    train_small(tmp_path, "seed=7")
    start = tmp_path / "run" / "checkpoints" / "best.pt"
    overrides = [f"data.path={text_file(tmp_path)}", *SMALL, "schedule.warmup=3", "repeat_batches=2", "steps=3",
                 f"init_from={start}"]  # fmt: skip
    caplog.clear()
    caplog.set_level(logging.INFO)
    execute_in_folder(compose(*overrides, "log.first_steps=3"), tmp_path / "other")
    last = {row[1]: row for row in first_steps_table(caplog)[-7:]}
    rows = table_rows(inspect_output(capsys, shlex.join([*overrides, "--steps", "3"])))
    assert list(rows) == list(last)
    for name, (_, weight, _, gradient, after, _) in rows.items():
        expected = [float(cell) for cell in last[name][2:5]]
        assert [float(weight), float(gradient), float(after)] == pytest.approx(expected, rel=1e-3)


def test_an_inspection_says_that_a_step_was_dropped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = inspect_output(
        capsys, shlex.join([f"data.path={text_file(tmp_path)}", *SMALL, "clip=drop", "clip.max=1e-9"])
    )
    assert "update: none, since clipping dropped the step" in text


def test_an_inspection_judges_the_update(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = [f"data.path={text_file(tmp_path)}", *SMALL, "optimizer=sgd", "clip=norm", "clip.max=1e-3"]
    state = build(compose(*small))
    before = exact_norm(list(state.model.parameters()))

    def exact_size(lr: str) -> float:
        """The norm of the weights after the step."""
        return before if float(lr) < 10 else float(lr) * 1e-3

    for lr, judged in (("1e7", "large: above 0.1"), ("1", "neither large nor small"), ("1e-2", "small: below 1e-05")):
        text = inspect_output(capsys, shlex.join([*small, f"optimizer.lr={lr}"]))
        (line,) = [line for line in text.splitlines() if line.startswith("update: ")]
        assert float(line.split(" by ")[1].split()[0]) == pytest.approx(float(lr) * 1e-3 / exact_size(lr), rel=0.05)
        assert judged in line


def test_an_inspection_of_several_steps_marks_what_holds_at_all_of_them(tmp_path: Path) -> None:
    """The marks of an inspection are those of a run that checks its parameters at each of the steps."""
    require_options("experiment=depth")
    vanishing = compose("experiment=depth", "model.gain=0.5")
    assert set(inspection.inspect(vanishing, 3).marks.values()) == {"vanishing"}
    dead = ["model=mlp", "data=digits", "optimizer=sgd", "optimizer.lr=30", "clip=none"]
    require_options(*dead)
    marks = [set(inspection.inspect(compose(*dead), steps).marks.values()) for steps in (3, 12)]
    assert "dead" not in marks[0]
    assert "dead" in marks[1]


def test_later_steps_are_those_of_the_run(tmp_path: Path) -> None:
    overrides = [f"data.path={text_file(tmp_path)}", *SMALL, "model.dropout=0.3", "clip.max=0.1"]
    found = inspection.inspect(compose(*overrides), 4)
    state = build(compose(*overrides))
    batches = state.data.batches(0)
    for _ in range(4):
        batch = next(batches)
        with torch.random.fork_rng():
            time_steps = inspection.through_time(state, batch)
        _, report = loop.take_step(state, batch, check=False)
    expected = {name: before for name, (before, _) in report.by_parameter().items()}
    assert {name: norms.gradient for name, norms in found.parameters.items()} == expected
    assert found.time_steps == time_steps


# -- by time step


@pytest.mark.parametrize("model", [name for name in ("rnn", "lstm") if name in option_names("model")])
def test_norms_by_time_step_match_finite_differences(tmp_path: Path, model: str) -> None:
    """The reference: central differences of the last time step's loss in each element of the embedded inputs."""
    overrides = [f"data.path={text_file(tmp_path)}", *SMALL, f"model={model}", "data.window=6"]
    state = build(compose(*overrides))
    state.model.double()
    batch = next(state.data.batches(0))
    norms = inspection.through_time(state, batch)
    assert norms is not None
    assert len(norms) == 6
    assert all(parameter.grad is None for parameter in state.model.parameters())

    def last_loss(change: torch.Tensor) -> float:
        embedded = state.model.embedding(batch.inputs) + change
        hidden, _ = state.model.recurrent(embedded)
        scores = state.model.output(hidden)[:, -1]
        chosen = torch.log_softmax(scores, -1)[torch.arange(len(scores)), batch.targets[:, -1]]
        return -chosen.sum().item() / batch.targets.numel()  # the last step's part of the mean over all characters

    for step in range(6):
        squares, size = 0.0, 1e-5
        for row, element in itertools.product(range(4), range(4)):
            change = torch.zeros(4, 6, 4, dtype=torch.float64)
            change[row, step, element] = size
            squares += ((last_loss(change) - last_loss(-change)) / (2 * size)) ** 2
        assert norms[step] == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_the_norms_of_the_first_and_last_time_step_are_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = inspect_output(capsys, shlex.join([f"data.path={text_file(tmp_path)}", *SMALL]))
    assert "through time: the last time step's loss has a gradient of norm " in text
    assert "for the input at time step 16, and " in text


# -- plots and user errors


def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "norms.svg"
    inspect_output(capsys, shlex.join([f"data.path={text_file(tmp_path)}", *SMALL, "--plot", str(path)]))
    drawn = path.read_text()
    assert drawn.count("<!-- 2-norm of the gradient -->") == 1
    assert "<!-- time step -->" in drawn
    assert "(never used)" not in drawn


def test_a_plot_of_gradients_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "norms.svg"
    unstable = ("clip=none", "model.nonlinearity=relu", "optimizer.lr=1e30", "steps=9", "--steps", "9")
    arguments = [f"data.path={text_file(tmp_path)}", *SMALL, *unstable, "--plot", str(path)]
    text = inspect_output(capsys, shlex.join(arguments))
    assert "stopped at step 2 of 9" in text
    drawn = path.read_text()
    assert drawn.count("<!-- not finite -->") == len(table_rows(text))
    assert "gradients by parameter, step 2" in drawn
    assert "16 of 16 norms are 0 or not finite" in drawn


def test_a_plot_of_zero_and_missing_gradients(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    parameters = {
        "zero": ParameterNorms((2, 2), 1.0, 0.0),
        "none": ParameterNorms((2, 2), 1.0, None),
        "usual": ParameterNorms((2, 2), 1.0, 0.5),
    }
    after = {"zero": 0.0, "none": None, "usual": 0.1}
    found = inspection.Inspection(parameters, {}, after, {"none": "never used"}, [0.0, 2.0], 7, 0.01, None)
    inspection_plot.plot(found, tmp_path / "norms.svg")
    drawn = (tmp_path / "norms.svg").read_text()
    for text in ("<!-- zero -->", "<!-- no gradient -->", "none (never used)", "step 7", "1 of 2 norms are 0"):
        assert text in drawn


@pytest.mark.parametrize(
    ("arguments", "line"),
    [("model=rmn", "model=rmn: no such option; did you mean model=rnn?"), ("--steps 0", "--steps=0: must be at"),
     ("--steps 7 steps=6", "--steps=7: the run itself has steps=6"), ("--plot nowhere/a.png", "no such folder"),
     ("--plot a.txt", "--plot a.txt: its ending must be one of"), ("clip.maks=1", "did you mean clip.max?"),
     ("clip.include=[nope]", "matches no parameter"), ("init_from=nope.pt", "init_from=nope.pt: "),
     ("resume=latest", "resume=latest: init_from=FILE inspects the weights of a checkpoint"),
     ("--what", "unrecognized arguments: --what")],
)  # fmt: skip
def test_a_user_error_is_one_line(
    arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        inspect_gradients.main(shlex.split(arguments))
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert line in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_matplotlib_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        inspect_gradients.main(["--plot", "a.png"])
    assert '-e ".[docs]"' in capsys.readouterr().err
