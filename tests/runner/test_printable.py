"""What is printed: losses with enough digits, and text in which nothing moves the cursor or hides what follows."""

import json
import math
from pathlib import Path

import pytest

from runner.errors import exit_with_error
from runner.printable import format_loss, format_mean, printable
from runner.report import summary
from runner.runs.run import Run
from runner.runs.status import change_status, initial_status, write_status
from runner.sweeps.jobs import record_end
from runner.sweeps.results import Job, Plan, Result, read_one, table
from scripts import status as script

HOSTILE = "a\x1b[2Jb\rc\u202ed\x9be\x07"
ESCAPED = "a\\x1b[2Jb\\rc\\u202ed\\x9be\\x07"
LETTERS = "Größe, жизнь, 日本語, مرحبا, हिन्दी, 한국어, e\u0301, \U0001f469\u200d\U0001f52c"  # the last with a joiner


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.30258, "2.3026"), (0.1, "0.1000"), (0.0999949, "0.09999"), (0.0123456, "0.01235"), (3.2e-05, "3.200e-05"),
     (-4e-7, "-4.000e-07"), (0.0, "0.0000"), (12345.678, "12345.6780"), (1e30, "1.000e+30"), (math.inf, "inf"),
     (math.nan, "nan")],
)  # fmt: skip
def test_a_loss_has_at_least_four_significant_digits(value: float, text: str) -> None:
    assert format_loss(value) == text


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [(1.5, 0.0123, "1.5000 ± 0.0123"), (1.5, 2.34e-5, "1.5000 ± 2.3e-05"), (1.5, 0.0, "1.5000 ± 0.0000"),
     (3.2e-5, 4.56e-7, "3.200e-05 ± 4.6e-07"), (1.5, None, "1.5000"), (1e30, 2e29, "1.000e+30 ± 2e+29")],
)  # fmt: skip
def test_a_mean_with_its_standard_deviation(mean: float, deviation: float | None, text: str) -> None:
    assert format_mean(mean, deviation) == text


def test_small_objectives_have_different_texts_in_the_table_of_a_sweep(tmp_path: Path) -> None:
    results = [Result(Job(number, [], ""), tmp_path, "finished", 3, 3, 1e-5 * number) for number in (1, 2)]
    assert [line.split()[3] for line in table(results).splitlines()[1:3]] == ["1.000e-05", "2.000e-05"]


def test_small_losses_in_the_summary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, 3)
    with run.recorded(), caplog.at_level("INFO"):
        summary.show(run, None, losses=(1.5, 2.5e-5), best=(1.25e-6, 3), norms=[1.0])
    (message,) = caplog.messages
    assert "loss         first 1.5000, last 2.500e-05, best validation 1.250e-06 at step 3\n" in message


@pytest.mark.parametrize("norms", [[math.nan] * 20, [math.inf, math.nan], []])
def test_norms_that_are_never_finite_have_no_median(
    norms: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """And numpy does not warn of them."""
    run = Run(tmp_path, 20)
    with run.recorded(), caplog.at_level("INFO"):
        summary.show(run, None, losses=(math.nan, math.nan), norms=norms, dropped=20)
    (message,) = caplog.messages
    assert "\nnorm before  never finite\n" in message
    assert not recwarn.list


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, ESCAPED),
        ("one\ntwo\tthree", "one\ntwo\tthree"),
        ("\u2066x\u2069 \u2028 \ud800 \x00 \x7f", "\\u2066x\\u2069 \\u2028 \\ud800 \\x00 \\x7f"),
        (LETTERS, LETTERS),
    ],
)
def test_what_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_sample_in_the_summary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, 3)
    with run.recorded(), caplog.at_level("INFO"):
        summary.show(run, None, sample=f"первая {HOSTILE}\nsecond")
    (message,) = caplog.messages
    assert f"sample       первая {ESCAPED}\n             second\n" in message
    assert not set("\x1b\r\x07\x9b\u202e") & set(message)


@pytest.mark.parametrize("state", ["failed", "rejected", "diverged"])
def test_a_reason_in_the_table_of_a_sweep(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, in the sweep's table and in that of scripts/status.py."""
    monkeypatch.chdir(tmp_path)
    job = Job(0, ["seed=1"], "")
    Plan([], [job]).write(tmp_path)
    (tmp_path / "0").mkdir()
    write_status(tmp_path / "0", initial_status(3) | {"state": state, "reason": f"first\n{HOSTILE}"})
    assert f"job 0 {state}: first\\n{ESCAPED}\n" in table([read_one(tmp_path / "0", job)])
    script.main([str(tmp_path)])
    assert f"{state} at step 0 of 3 (first\\n{ESCAPED})" in capsys.readouterr().out


def test_the_last_line_that_a_job_printed(tmp_path: Path) -> None:
    (tmp_path / "0.log").write_bytes(f"first\n{HOSTILE}\n".encode() + b"\xff\n")
    (tmp_path / "0").mkdir()
    result = record_end(tmp_path / "0", Job(0, [], ""), 7, None)
    assert result.reason == "\ufffd"
    (tmp_path / "1.log").write_text(f"first\nerror: {HOSTILE}\n", newline="")
    result = record_end(tmp_path / "1", Job(1, [], ""), 7, None)
    assert result.reason == ESCAPED.partition("\\r")[2], "a carriage return begins a line, too"


def test_an_error_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        exit_with_error(f"data.path={HOSTILE}: no such file")
    assert capsys.readouterr().err == f"error: data.path={ESCAPED}: no such file\n"


def test_a_status_that_another_program_wrote(tmp_path: Path) -> None:
    """Its host and time are printed, too."""
    write_status(tmp_path, initial_status(3) | {"pid": 2**22 + 1, "updated": HOSTILE})
    change_status(tmp_path, host="elsewhere")
    assert read_one(tmp_path, Job(0, [], "")).reason == f"no heartbeat since {ESCAPED}"
    assert json.loads((tmp_path / "status.json").read_text())["updated"] == HOSTILE
