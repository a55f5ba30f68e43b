"""evidence/docs/public_bugs.md: gradclip is right where packages are wrong, and the page shows the code that ran."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from evidence import public_bugs
from evidence.public_bugs import ANYTHING_ELSE, BUGS, NEITHER, Bug

PAGE = public_bugs.PAGE.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("default:clip.. found no gradient")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.package}: {bug.title}")
def test_gradclip_is_right(bug: Bug) -> None:
    answer = public_bugs.ours(bug)
    assert answer.verdict == "right", answer.shown


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.package == "torch"][:-1], ids=lambda bug: bug.title)
def test_torch_gives_one_of_the_two_answers(bug: Bug) -> None:
    """All but the largest, which takes a second. A version of torch that fixes an error gives "not reproduced"."""
    answer = public_bugs.theirs(bug)
    assert answer.verdict in ("reproduced", "not reproduced"), answer.shown
    section = PAGE[PAGE.index(f"## torch: {bug.title}\n") :]
    shown = re.match(rf".*?- torch {answer.version}: `(.*?)`, (.*?)\n", section, re.DOTALL)
    if shown is not None:  # the page is of this version
        assert shown[2] == answer.verdict
        assert numbers(answer.shown) == pytest.approx(numbers(shown[1]), rel=1e-3, nan_ok=True)


def numbers(text: str) -> list[float]:
    """The numbers in an answer; empty for an exception, whose class is the answer."""
    found = re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?|nan", text)
    return [] if "Error" in text else [float(number) for number in found]


def test_the_page_shows_the_code_of_the_script() -> None:
    blocks = re.findall(r"^```python\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
    before, *codes = blocks
    assert before == public_bugs.BEFORE.format(functions="torch.nn.utils").rstrip()
    expected = [
        code for bug in BUGS for code in ([bug.code, f"# gradclip\n{bug.ours.strip()}"] if bug.ours else [bug.code])
    ]
    assert codes == [code.strip() for code in expected]
    assert len(re.findall(r"^- gradclip: `.*`, right$", PAGE, re.MULTILINE)) == len(BUGS)
    assert NEITHER not in PAGE
    assert "not installed" not in PAGE


def test_the_docstring_says_how_every_package_is_installed() -> None:
    lines = re.findall(r"^ +pip install (.*)", public_bugs.__doc__ or "", re.MULTILINE)
    assert {bug.package for bug in BUGS} - {"torch"} <= set(" ".join(lines).split())


@pytest.mark.parametrize(
    ("code", "right", "wrong", "verdict"),
    [
        ("leaf(1.0, 2.0).grad", [1.0, 2.0], [0.0, 0.0], "not reproduced"),
        ("leaf(1.0, 2.0).grad", [1.0, 1.0], [1.0, 2.0], "reproduced"),
        ("nan", 1.0, nan := float("nan"), "reproduced"),
        ("[nan]", [1.0], ANYTHING_ELSE, "reproduced"),
        ("[nan]", [1.0], [2.0], NEITHER),
        ("1 / 0", 1.0, ANYTHING_ELSE, NEITHER),
        ("1 / 0", ArithmeticError, nan, "not reproduced"),
        ("1 / 0", 1.0, ZeroDivisionError, "reproduced"),
    ],
)
def test_the_verdicts(code: str, right: object, wrong: object, verdict: str) -> None:
    assert public_bugs.theirs(Bug("torch", "a case", code, right=right, wrong=wrong)).verdict == verdict


def test_a_package_that_is_not_installed() -> None:
    answer = public_bugs.theirs(Bug("no-such-package", "a case", "1.0", right=1.0, wrong=2.0))
    assert answer == public_bugs.Answer("", "", "not installed")
    assert public_bugs.in_words("no-such-package", answer) == "- no-such-package: not installed"


def test_a_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(public_bugs, "BUGS", BUGS[:1])
    page = Path(shutil.copy(public_bugs.PAGE, tmp_path))
    public_bugs.main(["--page", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.count("\n## ") == 1
    assert f"reproduced in {torch.__version__.partition('+')[0]} |" in text
    assert "reproduced in" in capsys.readouterr().out


def test_another_version_in_a_folder(tmp_path: Path) -> None:
    """A fake package; its answers come from a process that imports from the folder first."""
    (tmp_path / "zclip-99.0.dist-info").mkdir()
    (tmp_path / "zclip-99.0.dist-info" / "METADATA").write_text("Name: zclip\nVersion: 99.0\n")
    (tmp_path / "zclip.py").write_text("class ZClip:\n    state_dict = lambda self: [1.05]\n")
    found = {bug.title: answer for bug, answer in zip(BUGS, public_bugs.answers_from(tmp_path), strict=True)}
    assert found["its memory cannot be saved"] == {"version": "99.0", "shown": "[1.05]", "verdict": "not reproduced"}
    assert found["after one nan nothing is clipped any more"]["verdict"] == NEITHER  # it takes no arguments
    assert found["a negative `max_norm` reverses the gradients"] is None
