"""The studies and their page: the numbers, against theory and plain arithmetic."""

import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from evidence import pages, run_studies
from evidence.common import CONF, compose
from evidence.pages import cells, content
from evidence.studies import STUDIES, depth, line_120, log_cost, threshold, through_time
from evidence.studies.slope import log_slope
from evidence.studies.through_time import End
from tests.support import ROOT
from tests.trainer.support import SMALL, text_file
from trainer.project import PROJECT
from trainer.state import build

PAGE = run_studies.PAGE.read_text(encoding="utf-8")


# -- line_120


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], line_120.LineRun]:
    return {(each.clip, each.schedule): each for each in line_120.measure()}


def test_the_first_gradient_is_120(runs: dict[tuple[str, str], line_120.LineRun]) -> None:
    for run in runs.values():
        assert run.gradients[0] == pytest.approx(-120.0)
        assert run.bias_gradients[0] == pytest.approx(-2.0)
    norm, value = runs["norm", "constant"], runs["value", "constant"]
    assert math.hypot(norm.gradients[1], norm.bias_gradients[1]) == pytest.approx(1.0, rel=1e-6)
    assert norm.gradients[1] / norm.bias_gradients[1] == pytest.approx(60.0, rel=1e-6)  # the direction is kept
    assert (value.gradients[1], value.bias_gradients[1]) == pytest.approx((-1.0, -1.0))


def test_without_clipping_the_weight_diverges(runs: dict[tuple[str, str], line_120.LineRun]) -> None:
    run = runs["none", "constant"]
    for step in range(30):
        assert run.weights[step] == pytest.approx(4 - 3 * (-3.0) ** step, rel=1e-5, abs=1e-3)
    assert run.loss_ends is not None
    assert run.weight_ends is not None
    assert 35 < run.loss_ends < 42 < run.weight_ends < 82  # 20 * 3^2k and 3^k above 3.4e38
    assert not math.isfinite(run.weights[-1])


@pytest.mark.parametrize("clip", ["norm", "value"])
def test_with_clipping_the_weight_stays_near_the_solution(
    runs: dict[tuple[str, str], line_120.LineRun], clip: str
) -> None:
    constant, decaying = runs[clip, "constant"], runs[clip, "linear"]
    assert constant.bound == pytest.approx(0.1)
    assert 0.01 < constant.away <= constant.bound
    assert all(abs(weight - 4) <= constant.bound for weight in constant.weights[31:])  # reached by 30 steps of 0.1
    steps = np.diff(constant.weights)
    assert np.abs(steps).max() <= constant.bound * (1 + 1e-5)
    assert decaying.away < 1e-4 * constant.away


# -- depth


def test_the_first_layers_gradient_follows_the_gain() -> None:
    depths = (3, 11, 20)
    norms = depth.first_layer(depths)
    for gain in (0.5, 0.9, 1.1, 1.5):
        for seed in range(3):
            measured = [math.log(norms[gain][n][seed]) for n in depths]
            slope = np.polyfit(depths, measured, 1)[0]
            assert abs(slope / math.log(gain) - 1) < 0.05
            assert measured[0] == pytest.approx(2 * math.log(gain), abs=1e-4)
            assert log_slope(depths, [norms[gain][n][seed] for n in depths]) == pytest.approx(slope)
    for seed in range(3):
        assert abs(np.polyfit(depths, [math.log(norms[1.0][n][seed]) for n in depths], 1)[0]) < 0.01


def test_clipping_fixes_the_explosion_and_not_the_vanishing() -> None:
    start, lost = depth.end(1.5, "none", 1)
    assert lost == 2
    start, last = depth.end(1.5, "norm", 1)
    assert last < 1e-4 * start
    assert depth.end(0.5, "none", 1) == pytest.approx((1.0, 1.0), rel=1e-4)
    assert depth.end(0.5, "norm", 1) == pytest.approx((1.0, 1.0), rel=1e-4)
    before, after = zip(*depth.by_layer(1.5), strict=True)
    assert before == pytest.approx([1.5 ** (29 - layer) for layer in range(30)], rel=1e-4)
    assert np.array(after) / np.array(before) == pytest.approx([after[0] / before[0]] * 30, rel=1e-4)
    assert math.hypot(*after) < 1.0


def test_the_slopes_on_the_page() -> None:
    rows = cells(content(PAGE, "depth"))
    assert [float(row[0]) for row in rows[:5]] == list(depth.GAINS)
    for gain, law, slopes, _ in rows[:5]:
        assert float(law) == pytest.approx(math.log(float(gain)), abs=1e-4)
        for slope in slopes.split(" to "):
            assert float(slope) == pytest.approx(math.log(float(gain)), rel=0.05, abs=0.01)
    for row, unclipped in zip(rows[5:], ("1 → 1", "→ ", "not finite at step"), strict=True):
        assert row[1].count(unclipped) == row[2].count("→") == 3


# -- through time


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_a_relu_network_follows_the_gain_and_tanh_does_not(gain: float) -> None:
    relu, tanh, default = (through_time.slope_of(through_time.norms_by_step(net, gain)) for net in through_time.NETS)
    assert relu == pytest.approx(math.log(gain), abs=0.05)
    assert tanh < math.log(gain) - 0.04
    assert default < -0.15


def test_clipping_is_decisive_where_the_gradient_explodes() -> None:
    """One seed gives what the page reports for three."""
    shares = {(row[0], row[1]): row[2:] for row in cells(content(PAGE, "through_time")) if "clip=" in row[1]}
    assert len(shares) == 2 * len(through_time.NETS)
    free = through_time.solve(through_time.RELU, "data.length=40", "clip=none")
    assert (free.solved, free.finite) == (False, False)
    assert free.norm > 100
    assert shares[through_time.RELU.name, "`clip=none`"][2].startswith("0 of 3, 3 not finite")
    clipped = through_time.solve(through_time.RELU, "data.length=20", "clip=norm")
    assert (clipped.solved, clipped.finite) == (True, True)
    assert shares[through_time.RELU.name, "`clip=norm`"][1].startswith("3 of 3")


def test_clipping_changes_nothing_where_the_gradient_vanishes() -> None:
    short = ("data.length=20", "steps=30")
    free, clipped = (through_time.solve(through_time.DEFAULT, *short, f"clip={clip}") for clip in ("none", "norm"))
    assert free == clipped
    assert free.norm < 1.0


# -- the threshold


def test_if_every_step_is_clipped_only_lr_times_max_matters(tmp_path: Path) -> None:
    scene = [f"data.path={text_file(tmp_path)}", *SMALL]
    one, other = (threshold.train(*scene, f"optimizer.lr={rate}", f"clip.max={limit}")
                  for rate, limit in ((3.0, 0.01), (0.3, 0.1)))  # fmt: skip
    assert one.clipped == other.clipped == 1.0
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert len(one.norms) == 6
    assert threshold.train(*scene, "clip.max=100").clipped == 0.0
    rows = {(row[0], row[1]): row for row in cells(content(PAGE, "threshold"))}
    first, second = ([float(loss) for loss in rows[key][5].split(", ")] for key in (("3", "0.1"), ("1", "0.3")))
    assert first == pytest.approx(second, rel=0.02)  # as the page says
    assert len(rows) == len(threshold.RATES) * len(threshold.LIMITS)


# -- the cost of logging


def test_the_measured_cost_is_of_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_cost, "SIZES", (8,))
    (found,) = log_cost.measure()
    model = build(compose("model.hidden=8")).model
    assert found.weights == sum(parameter.numel() for parameter in model.parameters())
    assert all(seconds > 0 for seconds in (found.step, found.picture[0], found.histograms[0]))
    assert 2000 < found.picture[1] < 20_000
    assert 14 * 64 * 16 < found.histograms[1] < 14 * 2000  # two numbers for each of 64 bins of 14 tensors
    assert len(cells(content(PAGE, "log_cost"))) == 2


# -- the page


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_table_and_plot(name: str) -> None:
    assert cells(content(PAGE, name))
    if STUDIES[name].draw is None:
        return
    assert f"](gradients/{name}.png)" in PAGE
    assert (pages.DOCS / "gradients" / f"{name}.png").stat().st_size > 10_000


def test_its_experiments_compose() -> None:
    found = re.findall(r"`(?:experiment=)?(\w+)`", PAGE)
    experiments = set(found) & {path.stem for folder in (CONF, PROJECT.conf) for path in folder.glob("experiment/*")}
    assert experiments >= {"line_120", "depth", "threshold", "through_time", "through_time_orthogonal"}
    for name in experiments:
        compose(f"experiment={name}")


def test_the_order_of_docs_gradients() -> None:
    text = (ROOT / "docs" / "gradients.md").read_text(encoding="utf-8")
    positions = [text.index(word) for word in ("clip_grad_norm_", "clip_grad_value_", "zero_grad", "named_parameters",
                                            "## Exploding and", "## See it", "## How to choose")]  # fmt: skip
    assert positions == sorted(positions)
    for line in re.findall(r"python (?:train|scripts/inspect_gradients)\.py ([^`\n]*)", text):
        compose(*(word for word in shlex.split(line) if "=" in word and "," not in word))


def test_the_script_writes_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- line_120 -->\nold\n<!-- end of line_120 -->\nafter\n", encoding="utf-8")
    run_studies.main(["line_120", "--page", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- line_120 -->\n|")
    assert text.endswith("<!-- end of line_120 -->\nafter\n")
    assert "old" not in text
    assert content(text, "line_120") in capsys.readouterr().out
    assert (tmp_path / "page" / "line_120.png").stat().st_size > 10_000


def test_an_unknown_study(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_studies.main(["nope"])
    assert end.value.code == 2
    assert "no such study; there are line_120" in capsys.readouterr().err


def test_the_plots_of_the_other_studies_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    pyplot = pages.pyplot()
    norms = {gain: {n: [gain ** (n - 1)] * 3 for n in depth.DEPTHS} for gain in depth.GAINS}
    layers = {gain: [(1.0, 0.5)] * 4 for gain in depth.TRAINED}
    deep = depth.Depth(norms, {gain: [0.0] * 3 for gain in depth.GAINS}, layers, {})
    series = {(net.name, gain): [1.0] * through_time.LENGTH for net in through_time.NETS for gain in depth.GAINS}
    ends = {(net.name, n, clip): [End(True, True, 100, 1.0)] * 3 for net in through_time.NETS for n in net.lengths
            for clip in ("none", "norm")}  # fmt: skip
    points = {(r, limit): [threshold.End(0.5, None, [1.0])] * 3 for r in threshold.RATES for limit in threshold.LIMITS}
    for figure, lines in ((depth.draw(deep, pyplot), [5 + 15, 6]),
                          (through_time.draw(through_time.ThroughTime(series, ends), pyplot), [5, 5, 6]),
                          (threshold.draw(threshold.Threshold(points), pyplot), [6])):  # fmt: skip
        assert [len(axes.lines) for axes in figure.axes] == lines
        pyplot.close(figure)
    assert "3 of 3 (1)" in through_time.page(through_time.ThroughTime(series, ends))
    assert "| not finite, not finite, not finite |" in threshold.page(threshold.Threshold(points))
