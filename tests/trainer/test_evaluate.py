"""scripts/evaluate.py: the loss of a finished run, measured again, and single-line errors."""

import re
import shutil
from pathlib import Path

import pytest

from runner.runs.run import save_config
from runner.runs.status import read_status
from scripts import evaluate
from tests.programs import run
from tests.support import ROOT
from tests.trainer.options import option_names, require_options
from tests.trainer.support import compose, small_config
from trainer.evaluate import sample as sample_of
from trainer.run import execute_in_folder
from trainer.state import build


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, beside the text that it was trained on."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(folder, "data.sample=30")
    assert execute_in_folder(config, folder / "run").state == "finished"
    save_config(config, folder / "run")
    return folder / "run"


def test_evaluate_prints_the_loss_of_the_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(finished)])
    best = capsys.readouterr().out
    loss = float(re.findall(r"^step 6: loss ([\d.]+)  accuracy [\d.]+$", best, re.MULTILINE)[0])
    assert loss == pytest.approx(read_status(finished)["objective"], abs=1e-4)
    evaluate.main([str(finished), "--checkpoint", "last"])
    assert capsys.readouterr().out == best  # the only evaluation is that of the last step


def test_evaluate_as_a_program_refuses_a_missing_run(finished: Path) -> None:
    done = run(ROOT / "scripts" / "evaluate.py", "nowhere", cwd=finished)
    line = "error: nowhere: not the folder of a run; it has no config.yaml\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_evaluate_refuses_in_one_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    other = tmp_path / "other.txt"
    other.write_text("another text altogether " * 200)
    saved = config.read_text()
    for change, arguments, line in (
        (("", ""), ["--checkpoint", "nope.pt"], "nope.pt: no such checkpoint"),
        ((str(finished.parent / "small.txt"), str(other)), [], "best.pt: the data has changed: its hash was "),
        (
            ("name: rnn", "name: gone"),
            [],
            f"model=gone: no such option; there are {', '.join(option_names('model'))}\n",
        ),
        (("hidden: 8", "hidden: 0"), [], "model.hidden=0: must be a whole number of at least 1"),
    ):
        config.write_text(saved.replace(*change) if change[0] else saved)
        with pytest.raises(SystemExit) as end:
            evaluate.main([str(tmp_path / "run"), *arguments])
        error = capsys.readouterr().err
        assert (end.value.code, error.count("\n")) == (2, 1)
        assert line in error


def test_data_path_replaces_the_path_of_moved_data(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(finished)])
    result = capsys.readouterr().out
    shutil.copytree(finished, tmp_path / "run")
    shutil.copy(finished.parent / "small.txt", tmp_path / "moved.txt")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(finished.parent / "small.txt"), "/gone.txt"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        evaluate.main(["run"])
    assert capsys.readouterr().err == "error: data.path=/gone.txt: no such file\n"
    evaluate.main(["run", "--data-path", "moved.txt"])
    assert capsys.readouterr().out == result


def test_data_path_is_refused_for_a_data_set_without_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_options("model=linear_net", "data=line")
    (tmp_path / "run").mkdir()
    save_config(compose("model=linear_net", "data=line"), tmp_path / "run")
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path / "run"), "--data-path", "moved.txt"])
    assert capsys.readouterr().err == "error: moved.txt: data=line reads no file\n"


def test_a_sample_is_escaped_before_it_reaches_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = build(small_config(tmp_path))
    sample = "na\u00efve \u6f22\tcell\nline \x1b[31mred\x07 \u202eoverride\x00\r\x9b2J"
    monkeypatch.setattr(state.data, "sample", lambda model, device: sample)
    escaped = sample_of(state)
    assert escaped == "na\u00efve \u6f22\tcell\nline \\x1b[31mred\\x07 \\u202eoverride\\x00\\r\\x9b2J"
    monkeypatch.setattr(state.data, "sample", lambda model, device: None)
    assert sample_of(state) is None
