"""The study of the advice on thresholds, on a tiny job."""

import json
from pathlib import Path

import numpy as np
import pytest

from runner.report.advice import advise, norms_of
from tests.trainer.support import text_file

advice_study = pytest.importorskip("evidence.advice_study", reason="a fork has no evidence/")


def test_the_study_trains_with_what_the_advice_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny job: the page's numbers are those of the runs' own statuses."""
    monkeypatch.setattr(advice_study, "THRESHOLDS", (0.1, 1.0))
    page = tmp_path / "advice.md"
    advice_study.main([
        "--seeds", "1", "--runs", str(tmp_path / "runs"), "--page", str(page), f"data.path={text_file(tmp_path)}",
        "model.hidden=8", "model.embedding=4", "data.batch_size=4", "data.window=16", "steps=30",
    ])  # fmt: skip
    text = page.read_text()
    norms = norms_of(tmp_path / "runs" / "1_1")
    limit = float(np.quantile(norms, 0.9))
    status = json.loads((tmp_path / "runs" / f"{limit:.6g}_1" / "status.json").read_text())
    best = min(
        json.loads((tmp_path / "runs" / f"{t}_1" / "status.json").read_text())["objective"] for t in ("0.1", "1")
    )
    behind = 100 * (status["objective"] / best - 1)
    assert (
        f"| 1 | 10 %, the first advice | {limit:.3g} | {status['objective']:.3f} | {best:.3f} | {behind:+.1f} % |"
        in text
    )
    assert (tmp_path / "advice.png").stat().st_size > 1000
    assert f"{limit:.3g}" in advise(tmp_path / "runs" / "1_1")
