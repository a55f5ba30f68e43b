"""Helpers of the scripts: pages, configurations, copies of the checkout."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evidence import checkout, pages
from evidence.common import CONF, compose
from tests.support import ROOT, program
from trainer.project import PROJECT

README = (ROOT / "evidence" / "README.md").read_text(encoding="utf-8")


def test_only_the_section_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- end of one -->\n<!-- two -->\n<!-- end of two -->\nafter\n")
    table = pages.table(["a", "b"], [["1", r"2 \1"], ["3", "4"]])
    pages.write(page, {"one": table, "two": "text"})
    text = page.read_text()
    assert pages.content(text, "one") == table
    assert pages.content(text, "two") == "text"
    assert text.startswith("before\n<!-- one -->\n| a | b |\n")
    assert text.endswith("<!-- two -->\ntext\n<!-- end of two -->\nafter\n")
    assert pages.cells(text) == [["1", r"2 \1"], ["3", "4"]]
    assert capsys.readouterr().out == f"{table}\n\ntext\n"
    with pytest.raises(ValueError, match="<!-- three -->"):
        pages.write(page, {"three": "text"})
    with pytest.raises(ValueError, match="three"):
        pages.content(text, "three")


def test_every_experiment_composes_and_begins_with_its_command() -> None:
    files = sorted((CONF / "experiment").glob("*.yaml"))
    assert len(files) > 5
    for path in files:
        compose(f"experiment={path.stem}")
        comments = path.read_text(encoding="utf-8").splitlines()[:3]
        assert comments[0] == "# @package _global_"
        assert comments[1].startswith("# python ")
        assert comments[2].startswith("# ")
    for path in (PROJECT.conf / "experiment").glob("*.yaml"):
        compose(f"experiment={path.stem}")


def test_the_documented_command_runs(tmp_path: Path) -> None:
    (command,) = re.findall(r"^python train\.py (.*)$", README, re.MULTILINE)
    arguments = [word.replace("evidence/conf", str(CONF)) for word in shlex.split(command)]
    done = program(*arguments, "steps=2", "evaluate_every=2", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "experiment: threshold" in (tmp_path / "run" / ".hydra" / "hydra.yaml").read_text()
    assert "max: 0.3" in (tmp_path / "run" / "config.yaml").read_text()


SCRIPTS = sorted(set(re.findall(r"`python (evidence/\w+\.py)", README)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_lists_its_options(script: str) -> None:
    command = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "options:" in done.stdout


def test_every_script_is_in_the_readme() -> None:
    programs = {path for path in (ROOT / "evidence").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    names = {f"evidence/{path.name}" for path in programs}
    assert names - {"evidence/tracer.py"} == set(SCRIPTS)  # call_counts.py starts the tracer


def test_a_copy_has_the_tracked_files(tmp_path: Path) -> None:
    chosen = [path for path in checkout.files() if path.parts[0] == "conf"]
    copy = checkout.copy(tmp_path, chosen)
    assert {path.relative_to(copy) for path in copy.rglob("*.yaml")} == set(chosen)
