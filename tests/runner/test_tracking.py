"""Tracking: event files and metrics.jsonl read back, and the answers of TensorBoard's own server."""

import json
import math
import resource
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.nn import Parameter

from gradclip import Clipper, ClipReport, Policy
from runner.errors import UserError
from runner.sweeps import grid
from runner.sweeps.results import Plan, swept_values
from runner.sweeps.space import axes
from runner.tracking import metrics, pictures
from runner.tracking.events import EVENT_FILES
from runner.tracking.tags import step_with_parameters
from runner.tracking.tracker import Tracker
from runner.tracking.truncation import truncate_logs
from tests.comparison import shown_scalars
from tests.runner.support import compose, composer, status, train
from tests.runner.toy import loop
from tests.support import ENV, exact_norm

EVERY_STEP = {"loss/train", "grad_norm/before", "grad_norm/after", "clip/limit", "clip/scale", "clip/fraction", "lr",
              "steps_per_second", "dropped"}  # fmt: skip
DETAILS = {"weight_norm", "update_ratio"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps that clips, with the norms as NumPy measures them before and after each `clip`."""
    folder = tmp_path_factory.mktemp("tracked")
    measured: list[tuple[float, float]] = []

    class Measured(Clipper):
        def __init__(self, named: Iterable[tuple[str, Parameter]], policy: Policy):
            self.clipped = dict(named)
            super().__init__(self.clipped.items(), policy)

        def clip(self) -> ClipReport:
            before = exact_norm([p.grad for p in self.clipped.values()])
            report = super().clip()
            measured.append((before, exact_norm([p.grad for p in self.clipped.values()])))
            return report

    overrides = ("steps=12", "clip.max=1.5", "log.parameters_every=5", "evaluate_every=6", "log.histograms=true")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Clipper", Measured)
        train(compose(*overrides, "checkpoint.every=12", "log.gradient_norms=true"), folder / "run")
    (folder / "measured.json").write_text(json.dumps(measured))
    return folder / "run"


def test_logged_norms_equal_an_independent_measurement(run: Path) -> None:
    measured = json.loads((run.parent / "measured.json").read_text())
    found = shown_scalars(run)
    assert [value for _, value in found["grad_norm/before"]] == pytest.approx([b for b, _ in measured], rel=1e-6)
    assert [value for _, value in found["grad_norm/after"]] == pytest.approx([a for _, a in measured], rel=1e-6)
    assert any(before > after for before, after in measured)
    assert all(after <= 1.5 * (1 + 1e-6) for _, after in measured)


def test_every_step_has_its_tags(run: Path) -> None:
    found = shown_scalars(run)
    for tag in EVERY_STEP:
        assert [step for step, _ in found[tag]] == list(range(1, 13)), tag
    for tag in DETAILS | {f"grad_norm_{side}/weight" for side in ("before", "after")}:
        assert [step for step, _ in found[tag]] == [1, 5, 6, 10, 12], tag
    for tag in ("loss/val", "metric/largest_error", "best/objective"):
        assert [step for step, _ in found[tag]] == [6, 12], tag
    parameters = {f"grad_norm_{side}/{name}" for side in ("before", "after") for name in ("weight", "bias")}
    assert set(found) == EVERY_STEP | DETAILS | parameters | {"loss/val", "metric/largest_error", "best/objective"}


def test_scale_fraction_and_update_ratio_follow_from_the_norms(run: Path) -> None:
    found = {tag: dict(points) for tag, points in shown_scalars(run).items()}
    for step in range(1, 13):
        before, after = found["grad_norm/before"][step], found["grad_norm/after"][step]
        assert found["clip/scale"][step] == pytest.approx(after / before, rel=1e-5)
        assert found["clip/fraction"][step] == float(before > 1.5)
        assert found["clip/limit"][step] == pytest.approx(1.5)
    total = math.sqrt(sum(points[1] ** 2 for tag, points in found.items() if tag.startswith("grad_norm_before/")))
    assert total == pytest.approx(found["grad_norm/before"][1], rel=1e-5)
    # Plain SGD: the update is the rate times the clipped gradient.
    for step in (1, 5, 10, 12):
        update = found["lr"][step] * found["grad_norm/after"][step]
        assert found["update_ratio"][step] * found["weight_norm"][step] == pytest.approx(update, rel=1e-4)


def test_a_step_is_one_event(run: Path) -> None:
    (path,) = run.glob("events.out.tfevents.*")
    steps = [event.step for event in EventFileLoader(str(path)).Load() if event.HasField("summary") and event.step]
    assert steps == sorted([*range(1, 13), *[6, 12] * 4])  # an evaluation: its values, two pictures, histograms


def test_log_every_selects_the_logged_steps(tmp_path: Path) -> None:
    train(compose("steps=11", "log.every=4", "checkpoint.every=11", "evaluate_every=11"), tmp_path)
    assert [step for step, _ in shown_scalars(tmp_path)["loss/train"]] == [1, 4, 8, 11]


def test_the_norms_are_drawn_at_every_evaluation(run: Path) -> None:
    """Those of each parameter at the steps that logged them, and those of all logged steps so far."""
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    found = {tag: dict(points) for tag, points in metrics.read(run).items()}
    prefix = "grad_norm_before/"
    parameters = {tag.removeprefix(prefix): points for tag, points in found.items() if tag.startswith(prefix)}
    steps = sorted(next(iter(parameters.values())))
    by_parameter = {name: [points[step] for step in steps] for name, points in parameters.items()}
    norms = list(found["grad_norm/before"].values())
    for tag, drawn in (("gradient_norms", pictures.draw_norms(steps, by_parameter)),
                       ("norm_histogram", pictures.draw_histogram(norms, found["clip/limit"][12]))):  # fmt: skip
        shown = events.Images(tag)
        assert [picture.step for picture in shown] == [6, 12]
        assert (shown[1].width, shown[1].height) == (drawn.width, drawn.height)
        assert shown[1].encoded_image_string == drawn.png


def test_histograms_count_every_element(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"histograms": 0})
    events.Reload()
    content = torch.load(run / "checkpoints" / "step_12.pt", weights_only=True)["model"]
    assert set(events.Tags()["histograms"]) == {f"histogram/{k}/{name}" for k in ("weight", "gradient")
                                                for name in content}  # fmt: skip
    first, last = events.Histograms("histogram/weight/weight")
    assert (first.step, last.step) == (6, 12)
    values, histogram = content["weight"].double().numpy().ravel(), last.histogram_value
    assert (histogram.num, histogram.min, histogram.max) == (values.size, values.min(), values.max())
    assert histogram.sum == pytest.approx(values.sum(), rel=1e-4)
    assert histogram.sum_squares == pytest.approx((values**2).sum(), rel=1e-4)
    counts, _ = np.histogram(values, len(histogram.bucket), (values.min(), values.max()))
    assert np.abs(np.array(histogram.bucket) - counts).sum() <= 2  # an element on an edge
    assert histogram.bucket_limit[-1] == values.max()
    gradient = events.Histograms("histogram/gradient/weight")[-1].histogram_value
    norm = dict(shown_scalars(run)["grad_norm_after/weight"])[12]
    assert gradient.sum_squares == pytest.approx(norm**2, rel=1e-4)  # as clipping left it


def test_pictures_and_histograms_are_written_only_if_configured(tmp_path: Path) -> None:
    train(compose(), tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == events.Tags()["histograms"] == []


def test_tensors_without_a_histogram(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "", {})
    sparse = torch.sparse_coo_tensor([[1, 1, 4]], [2.0, 3.0, 7.0], (9,), check_invariants=True)
    tracker.histograms(1, {"none": None, "nan": torch.tensor([1.0, math.nan]), "empty": torch.zeros(0),
                           "one": torch.full((3,), 2.0), "half": torch.ones(4).half(),
                           "sparse": sparse})  # fmt: skip
    tracker.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["histograms"] == ["histogram/one", "histogram/half", "histogram/sparse"]
    counted = events.Histograms("histogram/sparse")[0].histogram_value
    assert (counted.num, counted.min, counted.max) == (2, 5.0, 7.0)  # an index that stands twice is one element
    assert sum(events.Histograms("histogram/one")[0].histogram_value.bucket) == 3


def test_a_parameter_without_gradients_and_a_zero_norm(tmp_path: Path) -> None:
    zero = torch.zeros((), dtype=torch.float64)
    one = zero.view(1)
    report = ClipReport(before=zero, after=zero, norms=one, limits=one + 1, limited=one > 1, dropped=False,
                        names=("w",), parameter_before=one, parameter_after=one, get_labels=lambda: ("w",))  # fmt: skip
    tracker = Tracker(tmp_path, "", {})
    logged = tracker.step(1, zero, report, lr=1.0, steps_per_second=1.0, dropped=0)
    tracker.close()
    assert logged == (0.0, 0.0, 0.0, False, None, None)
    assert shown_scalars(tmp_path)["clip/scale"] == [(1, 1.0)]


def test_further_scalars_of_a_project_are_logged(tmp_path: Path) -> None:
    zero = torch.zeros((), dtype=torch.float64)
    one = zero.view(1)
    report = ClipReport(before=zero, after=zero, norms=one, limits=one + 1, limited=one > 1, dropped=False,
                        names=("w",), parameter_before=one, parameter_after=one, get_labels=lambda: ("w",))  # fmt: skip
    tracker = Tracker(tmp_path, "", {})
    tracker.step(1, zero, report, lr=1.0, steps_per_second=1.0, dropped=0, extra={"temperature": 0.5})
    tracker.close()
    assert shown_scalars(tmp_path)["temperature"] == [(1, 0.5)]
    assert metrics.read(tmp_path, ["temperature"]) == {"temperature": [(1, 0.5)]}


class FakeAcceleratorTensor(torch.Tensor):
    """A tensor whose `is_cpu` is false, as on an accelerator; it counts how often its values are copied to the host."""

    is_cpu = False
    read = 0

    def tolist(self) -> Any:
        FakeAcceleratorTensor.read += 1
        return super().tolist()

    def item(self) -> Any:
        raise AssertionError("a single value is copied to the host")


def test_a_step_reads_an_accelerator_once(tmp_path: Path) -> None:
    """And logs the same values as on the CPU."""
    found = []
    for kind in (torch.Tensor, FakeAcceleratorTensor):
        each = torch.tensor([3.0, 4.0], dtype=torch.float64).as_subclass(kind)
        all_, loss = torch.tensor(5.0, dtype=torch.float64).as_subclass(kind), torch.tensor(1.5).as_subclass(kind)
        report = ClipReport(before=all_, after=all_ / 2, norms=each, limits=each / 2, limited=each > 0, dropped=False,
                            names=("v", "w"), parameter_before=each, parameter_after=each / 2,
                            get_labels=lambda: ("v", "w"))  # fmt: skip
        tracker = Tracker(tmp_path / kind.__name__, "", {})
        logged = tracker.step(1, loss, report, lr=1.0, steps_per_second=1.0, dropped=0, update_norms=each)
        tracker.close()
        assert logged == (1.5, 5.0, 2.5, True, 3.0, 4 / 3)
        found.append(shown_scalars(tmp_path / kind.__name__))
    assert found[0] == found[1]
    assert found[0]["grad_norm_after/w"] == [(1, 2.0)]
    assert found[0]["update_ratio"] == [(1, pytest.approx(4 / 3))]
    assert FakeAcceleratorTensor.read == 1


def test_an_open_tensorboard_discards_what_a_resumed_run_logs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(tmp_path, "", {})
    tracker.evaluation(1, 0.5, {})
    lengths = tracker.log_lengths()
    tracker.evaluation(2, 0.25, {})
    tracker.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(each.step, each.value) for each in board.Scalars("loss/val")] == [(1, 0.5), (2, 0.25)]
    truncate_logs(tmp_path, lengths)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 10)  # so that the new file is read after the old one
    tracker = Tracker(tmp_path, "", {}, after=1)
    tracker.evaluation(2, 0.125, {})
    tracker.close()
    board.Reload()
    assert [(each.step, each.value) for each in board.Scalars("loss/val")] == [(1, 0.5), (2, 0.125)]


# -- metrics.jsonl


def test_metrics_jsonl_and_event_files_hold_the_same_scalars(run: Path) -> None:
    """The same tags, steps and values; an event holds a value as float32."""
    found, shown = metrics.read(run), shown_scalars(run)
    assert found.keys() == shown.keys()
    for tag, points in found.items():
        assert [(step, float(np.float32(value))) for step, value in points] == shown[tag], tag


def test_metrics_jsonl_has_a_line_for_each_logged_step_and_evaluation(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [next(iter(line)) for line in lines] == ["step"] * 14
    assert [line["step"] for line in lines] == [*range(1, 7), 6, *range(7, 13), 12]
    assert set(lines[0]) == {"step", *EVERY_STEP, *DETAILS} | set(step_with_parameters(("weight", "bias")))
    assert set(lines[1]) == {"step", *EVERY_STEP}
    assert set(lines[6]) == {"step", "loss/val", "metric/largest_error", "best/objective"}


def test_metrics_are_readable_at_once_and_events_after_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(tmp_path, "", {})
    tracker.evaluation(1, 0.5, {})
    assert metrics.read(tmp_path) == {"loss/val": [(1, 0.5)]}
    assert "loss/val" not in shown_scalars(tmp_path)
    tracker.flush()
    assert shown_scalars(tmp_path)["loss/val"] == [(1, 0.5)]
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 10)  # TensorBoard shows a run while it trains
    tracker.evaluation(2, 0.25, {})
    assert shown_scalars(tmp_path)["loss/val"] == [(1, 0.5), (2, 0.25)]
    tracker.close()


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "", {})
    tracker.evaluation(1, math.inf, {"a": math.nan, "b": -math.inf})
    tracker.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert line == '{"step": 1, "loss/val": Infinity, "metric/a": NaN, "metric/b": -Infinity}'
    found = metrics.read(tmp_path)
    assert found["loss/val"] == [(1, math.inf)]
    assert math.isnan(found["metric/a"][0][1])


def test_reading_metrics(tmp_path: Path) -> None:
    assert metrics.read(tmp_path, ["a"]) == {}
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1.0, "b": 1}\n{"step": 1, "a": 3}\n{"step": 2, "a": 4.5}\n{"step": 3, "a": 5')
    assert metrics.read(tmp_path, ["a", "c"]) == {"a": [(1, 3.0), (2, 4.5)]}
    assert metrics.read(tmp_path) == {"a": [(1, 3.0), (2, 4.5)], "b": [(2, 1.0)]}
    for line in ("{", "[]", "7", '{"a": 1}', '{"step": 1, "a": "x"}', '{"step": 1, "a": null}', "\0"):
        path.write_text(f'{{"step": 2, "a": 1.0}}\n{line}\n')
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not a JSON object with a step and numbers"):
            metrics.read(tmp_path)


def test_metrics_are_read_without_torch() -> None:
    code = "import sys, runner.tracking.metrics, runner.tracking.tags; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=ENV, check=True)


def test_a_truncated_log_is_named_and_continued_on_a_new_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(tmp_path, "", {})
    tracker.evaluation(1, 0.5, {})
    tracker.evaluation(2, 0.5, {})
    lengths = tracker.log_lengths()
    tracker.close()
    (events,) = tmp_path.glob(EVENT_FILES)
    for path in (events, tmp_path / "metrics.jsonl"):
        path.write_bytes(path.read_bytes()[:-5])
    truncate_logs(tmp_path, lengths)
    assert len([each for each in caplog.messages if each.endswith("points are missing at its end")]) == 2
    tracker = Tracker(tmp_path, "", {}, after=2)
    tracker.evaluation(3, 0.25, {})
    tracker.close()
    assert metrics.read(tmp_path) == {"loss/val": [(1, 0.5), (3, 0.25)]}
    truncate_logs(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["events.out.tfevents.", "metrics.jsonl"])
def test_a_log_that_cannot_be_written_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    """It is raised in the thread that logs, since there is no other."""
    threads = threading.active_count()
    if name == "metrics.jsonl":
        (tmp_path / name).write_bytes(b" " * 19_900)  # so that it is too large before the event file is
    tracker = Tracker(tmp_path, "", {})
    assert threading.active_count() == threads

    def write() -> None:
        for step in range(1000):
            tracker.evaluation(step, 0.5, {})

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert Path(raised.value.filename).parent == tmp_path
    assert Path(raised.value.filename).name.startswith(name)
    tracker.close()


# -- TensorBoard's own server


@pytest.fixture(scope="module")
def server(run: Path) -> str:
    return serve(run.parent)


def get(server: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{server}data/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return json.load(answer)


def test_the_server_shows_both_norms(server: str, run: Path) -> None:
    for tag in ("grad_norm/before", "grad_norm/after"):
        points = get(server, "plugin/scalars/scalars", run="run", tag=tag)
        assert [step for _, step, _ in points] == list(range(1, 13))
        assert [value for _, _, value in points] == pytest.approx([v for _, v in shown_scalars(run)[tag]])


def test_the_server_shows_images_and_histograms(server: str) -> None:
    shown = get(server, "plugin/images/images", run="run", tag="gradient_norms", sample="0")
    assert [picture["step"] for picture in shown] == [6, 12]
    points = get(server, "plugin/histograms/histograms", run="run", tag="histogram/weight/weight")
    assert [point[1] for point in points] == [6, 12]


def test_the_server_draws_both_norms_on_one_chart(server: str) -> None:
    layout = get(server, "plugin/custom_scalars/layout")
    charts = {chart["title"]: chart for group in layout["category"] for chart in group["chart"]}
    (pattern,) = charts["norm before and after"]["multiline"]["tag"]
    answer = get(server, "plugin/custom_scalars/scalars", run="run", tag=pattern)
    assert answer["regex_valid"]
    assert set(answer["tag_to_events"]) == {"grad_norm/before", "grad_norm/after"}
    (margin,) = charts["norm removed by clipping"]["margin"]["series"]
    assert set(margin.values()) == {"grad_norm/before", "grad_norm/after"}


def test_the_server_shows_the_whole_configuration(server: str) -> None:
    (config,) = get(server, "plugin/text/text", run="run", tag="config/text_summary")
    assert "max: 1.5" in config["text"]
    assert "target: 1.0" in config["text"]
    (data,) = get(server, "plugin/text/text", run="run", tag="data/text_summary")
    assert "inputs: 3" in data["text"]


def test_the_server_shows_the_swept_keys_and_the_objective_of_every_job(tmp_path: Path) -> None:
    """The jobs of a sweep find in its plan which keys are swept, and TensorBoard has a row for each that began."""
    plan = run_grid(tmp_path, "seed=3,4", "experiment=calm,wild")
    server = serve(tmp_path)
    experiment = post(server, "plugin/hparams/experiment", {})
    assert {info["name"] for info in experiment["hparamInfos"]} == {"seed", "experiment"}
    rows = hparams_rows(server)
    ends = {"finished": "STATUS_SUCCESS", "diverged": "STATUS_UNKNOWN"}
    for job in plan.jobs:
        ended = status(tmp_path / str(job.number))
        hparams, objective, session = rows.pop(str(job.number))
        assert hparams == job.swept
        assert objective == (None if ended["objective"] is None else pytest.approx(ended["objective"], rel=1e-6))
        assert session == ends[ended["state"]]
        assert ended["state"] == {"calm": "finished", "wild": "diverged"}[job.swept["experiment"]]
    assert rows == {}


NULLS = [
    (["clip=zclip", "clip.max=null,1"], "clip.max", [{}, {"clip.max": 1.0}], "DATA_TYPE_FLOAT64"),
    (["clip.norm_type=2,inf"], "clip.norm_type", [{"clip.norm_type": "2.0"}, {"clip.norm_type": "Infinity"}],
     "DATA_TYPE_STRING"),
    (["schedule=constant,linear", "schedule.final=0.5"], "schedule",
     [{"schedule": "constant"}, {"schedule": "linear"}], "DATA_TYPE_STRING"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "key", "expected", "kind"), NULLS, ids=[key for _, key, _, _ in NULLS])
def test_hparams_has_a_row_for_every_job(
    arguments: list[str], key: str, expected: list[dict[str, Any]], kind: str, tmp_path: Path
) -> None:
    """A null has an empty cell; a column is of one type, or TensorBoard's server fails to sort by it."""
    run_grid(tmp_path, *arguments)
    for number, hparams in enumerate(expected):
        assert session_start(tmp_path / str(number)) == hparams
    server = serve(tmp_path)
    infos = {info["name"]: info["type"] for info in post(server, "plugin/hparams/experiment", {})["hparamInfos"]}
    assert infos == {key: kind}
    for order in ("ORDER_ASC", "ORDER_DESC"):
        rows = hparams_rows(server, {"hparam": key, "order": order})
        assert [rows[str(number)][0] for number in range(2)] == expected
        assert [session for *_, session in rows.values()] == ["STATUS_SUCCESS"] * 2


def session_start(folder: Path) -> dict[str, Any]:
    """The values of the one event that begins the run's row in HParams."""
    found = []
    for path in folder.glob(EVENT_FILES):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == SESSION_START_INFO_TAG:
                    content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    assert content.HasField("session_start_info")
                    found.append(content.session_start_info.hparams)
    (hparams,) = found
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()}


def run_grid(folder: Path, *arguments: str) -> Plan:
    """Plans a grid, and runs its jobs in this process."""
    space = axes(composer(), arguments)
    plan = grid.plan(composer(), space, grid.Points(composer(), space), arguments)
    plan.write(folder)
    for job in plan.jobs:
        train(compose(*job.overrides), folder / str(job.number), swept=swept_values(folder / str(job.number)))
    return plan


def serve(folder: Path) -> str:
    """Starts TensorBoard's own server for a folder; its address."""
    board = program.TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", str(folder), "--port", "0", "--load_fast=false"])
    url: str = board.launch()
    return url


def hparams_rows(server: str, *columns: dict[str, Any]) -> dict[str, tuple[dict[str, Any], float | None, str]]:
    """The rows of the HParams table by run: the values of the swept keys, the objective, and how the run ended."""
    metric = {"metric": {"tag": "best/objective"}, "order": "ORDER_UNSPECIFIED"}
    question = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"],
                "colParams": [metric, *columns]}  # fmt: skip
    rows = {}
    for group in post(server, "plugin/hparams/session_groups", question)["sessionGroups"]:
        (session,) = group["sessions"]
        metrics = {each["name"]["tag"]: each["value"] for each in session.get("metricValues", [])}
        rows[session["name"]] = (group.get("hparams", {}), metrics.get("best/objective"), session["status"])
    return rows


def post(server: str, path: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server}data/{path}", json.dumps(question).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
