"""The metrics of runs and sweeps as plain columns."""

from pathlib import Path

import pytest

from runner.errors import UserError
from runner.report import read
from runner.tracking.metrics import MetricsWriter
from tests.runner.support import compose
from tests.sweeps import FakeJob, write_sweep


def test_a_run_has_a_row_for_each_step(tmp_path: Path) -> None:
    """With the values of an evaluation in the row of its step, and None where a value was not logged."""
    writer = MetricsWriter(tmp_path)
    for line in ({"loss/train": 2.0}, {"loss/train": 1.5, "lr": 0.1}):
        writer.write(len(line), line)
    writer.write(2, {"loss/val": 1.75})
    writer.close()
    assert read(tmp_path) == {
        "step": [1, 2], "loss/train": [2.0, 1.5], "lr": [None, 0.1], "loss/val": [None, 1.75]
    }  # fmt: skip
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss/tr')
    assert read(str(tmp_path))["step"] == [1, 2], "an incomplete line is one that is being written"


def test_the_columns_make_a_data_frame(tmp_path: Path) -> None:
    """In the tests' environment, which has the extra `pandas`."""
    pandas = pytest.importorskip("pandas")
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss/train": 2.0})
    writer.write(2, {"loss/train": 1.5, "lr": 0.1})
    writer.close()
    frame = pandas.DataFrame(read(tmp_path)).set_index("step")
    assert frame["loss/train"].tolist() == [2.0, 1.5]
    assert frame["lr"].isna().tolist() == [True, False]


def test_a_sweep_has_the_swept_keys_beside_the_metrics(tmp_path: Path) -> None:
    jobs = [FakeJob(["clip=norm", f"clip.max={limit}", f"seed={seed}"], 1.0, limit=limit, steps=5)
            for limit in (0.5, 2.0) for seed in (1, 2)]  # fmt: skip
    columns = read(write_sweep(tmp_path / "sweep", jobs, compose=compose))
    assert list(columns)[:5] == ["job", "state", "clip.max", "seed", "step"]
    assert len({len(column) for column in columns.values()}) == 1
    points = list(zip(columns["job"], columns["clip.max"], columns["seed"], columns["step"], strict=True))
    swept = [(limit, seed) for limit in (0.5, 2.0) for seed in (1, 2)]
    expected = [(str(job), *values, step) for job, values in enumerate(swept) for step in range(1, 6)]
    assert points == expected
    assert set(columns["state"]) == {"finished"}


def test_a_folder_without_runs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a sweep or a run"):
        read(tmp_path)
