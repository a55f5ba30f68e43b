"""evidence/symptoms.py: its tables agree with gradclip's README, recommend what they show, and can be repeated."""

import math
import re
import statistics

import pytest

from evidence import symptoms
from evidence.pages import cells, content
from evidence.symptoms import SYMPTOMS, End, Try, train
from gradclip import AGC, ClipByNorm, NoClip

PAGE = symptoms.PAGE.read_text(encoding="utf-8")
ROWS = cells(content(symptoms.README.read_text(encoding="utf-8"), "symptoms"))


def shown(name: str) -> dict[str, list[str]]:
    """The cells of a symptom's table by the way to train."""
    return {row[0].strip("*"): row[1:] for row in cells(content(PAGE, name))}


def loss(cell: str) -> float:
    """The median of a cell such as `0.12 (0.1 to failed)`."""
    median = cell.split(" ")[0]
    return math.inf if median == "failed" else float(median)


@pytest.mark.parametrize("name", SYMPTOMS)
def test_the_page_has_the_ways_of_the_script(name: str) -> None:
    assert f"\n## {name}\n" in PAGE
    symptom = SYMPTOMS[name]
    labels = [each.label() for each in symptom.tries()]
    assert list(shown(name)) == labels
    assert len(set(labels)) == len(labels) >= 4


@pytest.mark.parametrize("name", SYMPTOMS)
def test_the_recommended_way_is_better_than_none(name: str) -> None:
    table, symptom = shown(name), SYMPTOMS[name]
    recommended = loss(table[symptom.first.label()][0])
    assert recommended < 0.2 * loss(table[Try(NoClip()).label()][0])
    assert recommended < 1.2 * loss(table[symptom.others[0].label()][0])


def test_the_readme_shows_the_figures_of_the_page() -> None:
    assert len(ROWS) == len(SYMPTOMS)
    for (seen, policy, losses, link), (name, symptom) in zip(ROWS, SYMPTOMS.items(), strict=True):
        table = shown(name)
        assert (seen, policy) == (symptom.seen, symptom.first.label())
        assert link == f"[{name}](../../evidence/docs/symptoms.md#{name})"
        assert (symptoms.README.parent / "../../evidence/docs/symptoms.md").is_file()
        first, unclipped, other = losses.split("; ")
        assert first == table[policy][0].split(" ")[0]
        assert unclipped == f"unclipped {table['`NoClip()`'][0].split(' ')[0]}"
        label = symptom.others[0].label()
        other, _, some = other.partition(", 1 of 5")
        assert other == f"{label} {table[label][0].split(' ')[0]}"
        assert (some == " failed") == (" to failed)" in table[label][0])


def test_a_call_is_the_constructor_call() -> None:
    for symptom in SYMPTOMS.values():
        for each in symptom.tries():
            text = symptoms.call(each.policy)
            name = text.partition("(")[0]
            made = eval(text, {name: type(each.policy)})
            assert made == each.policy
    assert symptoms.call(ClipByNorm(max=1.0)) == "ClipByNorm(max=1.0)"
    assert symptoms.call(AGC()) == "AGC()"


@pytest.mark.parametrize("name", ["nonfinite", "drift"])
def test_the_figures_are_repeated(name: str) -> None:
    """Two rows of two tables, to a tenth, with all seeds."""
    symptom, table = SYMPTOMS[name], shown(name)
    for way in (symptom.first, symptom.others[0]):
        ends = [train(symptom, way, seed) for seed in symptom.seeds]
        found, recorded = statistics.median(end.loss for end in ends), loss(table[way.label()][0])
        assert found == recorded == math.inf or found == pytest.approx(recorded, rel=0.1)


def test_what_counts_as_failed() -> None:
    failed = train(SYMPTOMS["nonfinite"], Try(ClipByNorm(max=1.0)), 1)
    assert failed.loss == math.inf
    ended = train(SYMPTOMS["nonfinite"], Try(ClipByNorm(max=1.0, nonfinite="drop")), 1)
    assert ended.loss < 0.01
    assert 0 < ended.dropped < 0.1


def test_the_format_of_the_cells() -> None:
    symptom = SYMPTOMS["drift"]
    found = {each.label(): [End(0.5, 0.25, 0.0), End(math.inf, 0.75, 0.0), End(0.1234, 0.5, 1.0)]
             for each in symptom.tries()}  # fmt: skip
    (row, *_) = cells(symptoms.table(symptom, found))
    assert row == ["`NoClip()`", "0.5 (0.12 to failed)", "50 %", "0 %"]
    assert re.findall(r"^\| \*\*`(\w+)\(", symptoms.table(symptom, found), re.MULTILINE) == ["AutoClip"]
