"""Observing and comparing the behaviour of two commits; only a few cases run here."""

import json
from pathlib import Path

import pytest

from evidence import contract
from evidence.behaviour import cases, observe
from evidence.contract import Expected
from tests.support import ROOT

BEFORE = {"option/clip=norm": {"exit": "0", "weights": "a1"}, "option/clip=value": {"exit": "0", "weights": "b1"}}
AFTER = {"option/clip=norm": {"exit": "0", "weights": "a1"}, "option/clip=value": {"exit": "0", "weights": "b2"}}


def test_differences_between_executions_are_normalized() -> None:
    one = "/any/one: 2026-01-02_03-04-05_0a1b2c, process 17, 2026-01-02T03:04:05+00:00, 1.5 s, loss 2.4826\na   b  "
    other = "/any/two: 2026-02-03_04-05-06_d4e5f6, process 8, 2026-02-03T04:05:06+00:00, 12 s, loss 2.4826\na     b"
    texts = [
        observe.normal(text, Path("/project"), Path(f"/any/{name}")) for text, name in ((one, "one"), (other, "two"))
    ]
    assert texts == ["<here>: <run>, process <pid>, <time>, <duration>, loss 2.4826\na  b"] * 2
    assert observe.normal("loss 2.4826", ROOT, ROOT) != observe.normal("loss 2.4827", ROOT, ROOT)


def test_the_message_of_a_traceback_is_its_last_line() -> None:
    assert observe.message('Traceback (most recent call last):\n  File "a.py", line 3\nKeyError: 1\n') == (
        "traceback: KeyError: 1"
    )
    assert observe.message("warning: few\nerror: no such key\n") == "warning: few\nerror: no such key"


def test_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.report(BEFORE, BEFORE, []) == 0
    assert capsys.readouterr().out.endswith("2 cases, 0 differ, 0 of them without an explanation\n")


def test_a_difference_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.report(BEFORE, AFTER, []) == 1
    out = capsys.readouterr().out
    assert "UNEXPLAINED\noption/clip=value: weights: b1 -> b2\n" in out
    assert out.endswith("2 cases, 1 differ, 1 of them without an explanation\n")


def test_cases_with_the_same_difference_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = ({f"case {number}": {"exit": code} for number in range(9)} for code in ("0", "1"))
    assert contract.report(before, after, []) == 1
    assert (
        "UNEXPLAINED\ncase 0, case 1, case 2, case 3, case 4, case 5 and 3 more: exit: 0 -> 1\n"
        in capsys.readouterr().out
    )


def test_fields_and_cases_that_one_commit_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    after = {"option/clip=norm": {"exit": "0"}, "option/clip=new": {"exit": "0"}}
    assert contract.report(BEFORE, after, []) == 1
    out = capsys.readouterr().out
    assert "option/clip=norm: weights: a1 -> absent\n" in out
    assert "option/clip=value: case: present -> absent\n" in out
    assert "option/clip=new: case: absent -> present\n" in out


def test_an_explained_difference_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.report(BEFORE, AFTER, [Expected("option/clip=*", "weights", "another rounding")]) == 0
    out = capsys.readouterr().out
    assert "explained: another rounding\noption/clip=value: weights: b1 -> b2\n" in out
    assert "UNEXPLAINED" not in out
    other_value = Expected("option/clip=*", "weights", "another rounding", after="b3")
    assert contract.report(BEFORE, AFTER, [other_value]) == 1


def test_the_expected_differences_can_be_read() -> None:
    assert all(Expected(**entry).reason for entry in json.loads(contract.EXPECTED.read_text(encoding="utf-8")))


def test_every_option_has_a_case_and_names_are_unique() -> None:
    names = [case.name for case in cases.cases(ROOT)]
    assert len(names) == len(set(names))
    assert {f"option/clip={path.stem}" for path in (ROOT / "conf" / "clip").glob("*.yaml")} <= set(names)
    assert sum(name.startswith("wrong/") for name in names) >= 30


def test_a_user_error_and_a_run_are_observed(tmp_path: Path) -> None:
    case = cases.Case("one", (cases.train("clip.maks=1"), cases.train(f"{cases.LINE} hydra.run.dir=run")))
    found = observe.observe(case, ROOT, tmp_path / "case")
    assert (found["command 1 (train.py) exit"], found["command 2 (train.py) exit"]) == ("2", "0")
    assert "no such key in clip=norm" in found["command 1 (train.py) message"]
    assert found["file run/checkpoints/step_6.pt"] == found["file run/events.out.tfevents.<id>"] == "present"
    assert found["run points loss/train"] == "6"
    assert len(found["run values loss/train"].split()) == 6
    assert found["run status"].startswith("state finished, step 6, steps 6, objective ")
    assert len(found["run weights last"]) == len(found["run weights best"]) == 64
