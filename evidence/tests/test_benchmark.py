"""A smoke test of every benchmark, on small inputs; no time is asserted."""

import copy
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from evidence import benchmark, pages
from evidence.benchmarks import cases, clip, engine, frameworks, growth, measure, policies, rows, start, step
from evidence.processes import memory
from gradclip import Policy
from tests.comparison import shown_scalars
from tests.support import exact_norm


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with the markers of every section; measures gradients of a few hundred elements."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    for module in (clip, policies):
        monkeypatch.setattr(module, "gradient_shapes", lambda large: {"small": [(8, 8), (8, 8), (5,)]})
    monkeypatch.setattr(engine, "shapes", lambda: {name: [(8, 8), (5,)] for name in (*engine.OF_VALUE, *engine.OF_AGC)})
    monkeypatch.setattr(growth, "ELEMENTS", (100, 200, 300, 400))
    monkeypatch.setattr(growth, "TENSORS", (1, 2, 4, 8))
    monkeypatch.setattr(growth, "FIXED", 80)
    monkeypatch.setattr(growth, "PICTURE", tmp_path / "pictures" / "growth.png")
    monkeypatch.setattr(step, "STEPS", {"MLP": 6})
    path = tmp_path / "page.md"
    path.write_text("\n".join(f"<!-- {name} -->\n<!-- end of {name} -->" for name in benchmark.COMMANDS))
    return path


def section(page: Path, command: str, *arguments: str) -> str:
    """What a command writes into its section of a page."""
    benchmark.main(["--page", str(page), command, *arguments])
    return pages.content(page.read_text("utf-8"), command)


def test_every_section_is_on_the_page() -> None:
    text = benchmark.PAGE.read_text("utf-8")
    for name in benchmark.COMMANDS:
        assert f"`python evidence/benchmark.py {name}`" in text
        assert pages.cells(pages.content(text, name))


def test_clip(page: Path) -> None:
    text = section(page, "clip", "--turns", "3")
    assert len(re.findall(r"^\| small \| [12] \| (scales|nothing exceeds)", text, re.MULTILINE)) == 4
    assert len(re.findall(r"^\| small \| [12] \| value", text, re.MULTILINE)) == 4
    errors = [float(row[-1]) for row in pages.cells(text)]
    assert 0 < max(errors) < 1e-6
    assert {len(row) for row in pages.cells(text)} == {11}


def test_the_engine_against_that_of_a_commit(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that measure memory are replaced."""
    monkeypatch.setattr(engine, "in_processes", lambda work, jobs: [0.0] * len(jobs))
    monkeypatch.setattr(engine, "timm_agc", lambda parameters: lambda: None)
    found = pages.cells(section(page, "engine", "--turns", "3", "--against", "HEAD", "--elements", "1000"))
    policies_of = {(row[0], row[1]) for row in found if len(row) == 9}
    assert policies_of >= {("norm", "GPT 10 M, bfloat16"), ("value", "LSTM 5 M"), ("agc", "ResNet-18")}
    assert {row[0] for row in found if row[1].startswith("`clip()`")} == {"1", "3", "inf"}
    ratios = [cell for row in found for cell in row if re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", cell)]
    assert len(ratios) == 2 * sum(len(row) > 4 for row in found) + len(engine.shapes())


def test_the_engine_of_a_commit_is_imported_as_another_package(tmp_path: Path) -> None:
    loaded = engine.load("HEAD^0", tmp_path)
    assert loaded.Clipper is not engine.gradclip.Clipper
    assert Path(loaded.__file__).is_relative_to(tmp_path)
    case = cases.Case([(8, 8), (5,)])
    engine.clip(loaded, case, loaded.ClipByNorm(max=1e-3))()
    assert case.norm() == pytest.approx(1e-3)


@pytest.mark.skipif(memory("VmHWM") is None, reason="needs /proc")
@pytest.mark.parametrize("what", engine.MAKERS)
def test_the_added_memory_of_an_engine(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the gradient is measured; torch's function allocates less than a quarter of it."""
    elements = 20_000_000
    copying = lambda engine, given, p: lambda: given.grad.clone()  # noqa: E731
    monkeypatch.setitem(engine.MAKERS, what, copying)
    assert engine.added_memory((engine.HERE, what, 1.0, elements)) == pytest.approx(4 * elements / 2**20, rel=0.2)
    assert engine.added_memory((engine.TORCH, what, 1.0, elements)) < elements / 2**20


def test_every_policy_that_limits_has_a_row_where_it_scales(page: Path) -> None:
    text = section(page, "policies", "--turns", "3")
    for name in ("norm", "rms", "agc", "autoclip", "zclip", "adagc", "ema", "quantile", "normalize", "soft"):
        assert re.search(rf"^\| small \| {name} \| parameter \| scales", text, re.MULTILINE), name


@pytest.mark.parametrize(("policy", "what"), list(cases.limiting()), ids=lambda each: getattr(each, "name", each))
def test_a_case_that_should_scale_does(policy: Policy, what: str) -> None:
    case = cases.Case([(8, 8), (8, 8), (5,)])
    work, before = case.ours(policy), exact_norm(case.gradients)
    for _ in range(3):
        case.restore()
        work()
        changed = exact_norm(case.gradients) != pytest.approx(before, rel=1e-9)
        assert changed == (what == "scales")


def test_rows(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ELEMENTS", 1 << 16)
    found = {row[0]: [float(cell) for cell in row[3:6]] for row in pages.cells(section(page, "rows", "--turns", "3"))}
    assert max(found["256"]) < max(found["32768"])  # the purpose of short chunks


def test_growth(page: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "| zclip |" in section(page, "growth", "--turns", "3")
    assert growth.PICTURE.stat().st_size > 10_000


def test_step_and_log(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(step, "installed", dict)
    text = section(page, "step", "--turns", "3", "--models", "MLP")
    assert "not installed, skipped: Lightning, Fabric, Accelerate, Hugging Face (pip" in capsys.readouterr().out
    times = r"( [\d.]+ ms, [\d.]+ \([^|]*\) \|){5}"
    assert re.search(rf"^\| MLP \| 2 \|{times}( not installed \|){{4}}$", text, re.MULTILINE)
    assert re.search(r"^\| MLP \| 2 \|( -?[\d.]+ % \(-?[\d.]+ to -?[\d.]+\) \|){4}$", text, re.MULTILINE)
    assert "one event a step" in section(page, "log", "--turns", "3")


def test_start(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are started and timed; only the first step is measured with the real program."""
    monkeypatch.setattr(start, "PROGRAMS", {start.IMPORTING: ["-c", "import json"]})
    monkeypatch.setattr(start, "first_step", cache(start.first_step))
    text = section(page, "start", "--turns", "2")
    assert re.search(r"^\| `python train.py` to its first step \| [\d.]+ \| [\d.]+ \(", text, re.MULTILINE)
    wall, work = start.first_step()
    assert wall > 0
    assert work > 0


@pytest.mark.filterwarnings("default")  # other people's packages warn
@pytest.mark.parametrize(
    "name", [name for name in [*step.LOOPS, *frameworks.LOOPS] if name not in (step.BARE, "by hand")]
)
def test_every_loop_trains_like_the_hand_written_one_and_logs_both_norms(name: str, tmp_path: Path) -> None:
    loops = step.LOOPS | frameworks.installed()
    if name not in loops:
        pytest.skip(f"{name} is not installed")
    make, batch = step.MODELS["MLP"]
    torch.manual_seed(0)
    one, data = make(), step.RandomDataset(batch())
    other = copy.deepcopy(one)
    step.LOOPS["by hand"](one, data, tmp_path / "hand", 4)
    data.requested.clear()
    loops[name](other, data, tmp_path / "run", 4)
    assert data.seconds(4) > 0
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-7)
    points: dict[str, list[tuple[int, float]]] = {}
    for folder in {path.parent for path in (tmp_path / "run").rglob("events.*")}:
        points |= shown_scalars(folder)
    norms = {tag: [value for _, value in found] for tag, found in points.items() if re.search("grad_norm", tag)}
    after = {tag for tag in norms if "after" in tag}
    assert norms.keys() > after
    assert all(max(norms[tag]) <= frameworks.LIMIT * (1 + 1e-5) for tag in after)
    assert max(max(norms[tag]) for tag in norms.keys() - after) > frameworks.LIMIT
    assert name == "ours, nothing logged" or all(len(values) >= 4 for values in norms.values())


def test_ratios_are_medians_of_the_ratios_within_a_turn() -> None:
    times = {"a": [1.0, 2.0, 9.0], "b": [1.0, 1.0, 3.0]}
    assert measure.ratio(times, "a", "b").median == 2.0
    assert measure.in_turns({"a": lambda: None, "b": lambda: None}, 4).keys() == {"a", "b"}
