"""The warnings of healthy runs, and each warning provoked: the claims about the page, and short runs of both anew."""

from pathlib import Path

import pytest

from evidence import pages, warnings_study
from evidence.warnings_study import HEALTHY, PROVOKED, run

PAGE = warnings_study.PAGE.read_text(encoding="utf-8")


def test_no_healthy_run_warns_but_of_the_layer_that_is_never_used() -> None:
    rows = pages.cells(pages.content(PAGE, "healthy"))
    assert [row[0].strip("`") for row in rows] == HEALTHY
    for job, finished, _, warnings in rows:
        assert finished == "3 of 3"
        unused = "line_120" in job or "linear_net" in job  # the model has a layer without gradients, to show it
        assert warnings == ("never used (3 of 3)" if unused else "none"), job


def test_every_warning_was_provoked() -> None:
    section = pages.content(PAGE, "provoked")
    for kind, job in PROVOKED.items():
        assert f"$ python train.py {job}\n{kind}: " in section


@pytest.mark.parametrize(
    "job", ["experiment=depth", "model=mlp data=digits optimizer=adam optimizer.lr=0.001 steps=100"]
)
def test_a_healthy_run_is_quiet(job: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, (job, 3))
    assert outcome.state == "finished"
    assert outcome.warnings == []
    assert 0 < outcome.lowest <= outcome.highest < 0.1


@pytest.mark.parametrize("kind", PROVOKED)
def test_a_warning_is_provoked(kind: str, tmp_path: Path) -> None:
    """Once, with the step."""
    outcome = run(tmp_path, (PROVOKED[kind], 1))
    (line,) = [line for line in outcome.warnings if line.startswith(f"{kind}: ")]
    assert "step " in line
