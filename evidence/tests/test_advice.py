"""The study of the advice, on a tiny job: the page's numbers are those in the runs' status files."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from evidence import advice_study
from evidence.pages import cells, content
from runner.report.advice import norms_of
from runner.runs.status import read_status
from tests.trainer.support import text_file


def test_the_study_trains_with_the_advised_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice_study, "THRESHOLDS", (0.1, 1.0))
    page, runs = Path(shutil.copy(advice_study.PAGE, tmp_path)), tmp_path / "runs"
    advice_study.main([
        "--seeds", "1", "--runs", str(runs), "--page", str(page), f"data.path={text_file(tmp_path)}",
        "model.hidden=8", "model.embedding=4", "data.batch_size=4", "data.window=16", "steps=30",
    ])  # fmt: skip
    limit = float(np.quantile(norms_of(runs / "1_1"), 0.9))
    loss = read_status(runs / f"{limit:.6g}_1")["objective"]
    best = min(read_status(runs / f"{threshold}_1")["objective"] for threshold in ("0.1", "1"))
    found = cells(content(page.read_text(encoding="utf-8"), "default"))
    assert found[0] == ["1", "10 %", f"{limit:.3g}", f"{loss:.3f}", f"{best:.3f}", f"{100 * (loss / best - 1):+.1f} %"]
    assert page.with_suffix(".png").stat().st_size > 1000


def test_the_advice_on_the_page_is_within_5_per_cent_of_the_best() -> None:
    found = cells(content(advice_study.PAGE.read_text(encoding="utf-8"), "others"))
    assert len(found) == len(advice_study.THRESHOLDS)
    assert max(float(row[-1].removesuffix(" %")) for row in found) < 5
