"""The conclusions of simulated sweeps whose truth is known."""

import random
import re
from collections.abc import Callable

import numpy as np
import pytest

from runner.report import render
from runner.report.aggregate import Table
from runner.report.conclusion import CODE, conclusion
from tests.sweeps import NOISE, Objectives, simulated, table_of

SWEEPS = 500
RESUME = "python train.py sweep.resume=HERE"


def winner(table: Table) -> str | None:
    """The configuration that the conclusion claims to be the best."""
    sentences = conclusion(table, RESUME)
    assert 1 <= len(sentences) <= 5
    found = re.match(r"Take `(.*?)`", sentences[0])
    return found[1] if found else None


def winners(simulate: Callable[[np.random.Generator], Objectives | Table]) -> list[str | None]:
    """The winners of 500 sweeps."""
    generator = np.random.default_rng(0)
    made = (simulate(generator) for _ in range(SWEEPS))
    return [winner(each if isinstance(each, Table) else table_of(each)) for each in made]


def share(simulate: Callable[[np.random.Generator], Objectives | Table]) -> float:
    """The share of 500 sweeps in which a winner is claimed."""
    return sum(each is not None for each in winners(simulate)) / SWEEPS


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("configurations", [2, 3, 6])
def test_without_a_difference_a_winner_is_rare(configurations: int, seeds: int) -> None:
    claimed = share(lambda generator: simulated(generator, [0.0] * configurations, seeds))
    assert claimed <= (0.07 if seeds >= 3 else 0)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("configurations", [2, 6])
def test_unequal_spreads_do_not_make_a_winner(configurations: int, seeds: int) -> None:
    """One configuration varies ten times as much as the others around the same mean."""

    def simulate(generator: np.random.Generator) -> Objectives:
        objectives = simulated(generator, [0.0] * configurations, seeds)
        objectives[-1] += generator.normal(0.0, 10 * NOISE, seeds)
        return objectives

    assert share(simulate) <= 0.07


def test_a_large_difference_is_found() -> None:
    """Of three standard deviations, at five seeds, between two configurations; and it is never the wrong one."""
    found = winners(lambda generator: simulated(generator, [3.0, 0.0], 5))
    assert found.count("clip.max=1.5") >= 0.8 * SWEEPS
    assert "clip.max=0.5" not in found


def test_six_configurations_need_ten_seeds() -> None:
    """For a lead of three standard deviations, which at five seeds is seldom certain against all five others."""
    found = winners(lambda generator: simulated(generator, [3.0, 3.0, 0.0, 3.0, 3.0, 3.0], 10))
    assert found.count("clip.max=4.5") >= 0.8 * SWEEPS
    assert set(found) <= {"clip.max=4.5", None}


def test_a_spread_of_bad_configurations_hides_nothing() -> None:
    """The interval between two good ones is as wide as without a third that trains badly, up to the correction."""

    def simulate(generator: np.random.Generator) -> Objectives:
        objectives = simulated(generator, [0.0, 5.0, 5000.0], 5)
        objectives[-1] += generator.normal(0.0, 1000 * NOISE, 5)
        return objectives

    assert share(simulate) >= 0.8


def test_a_small_difference_is_seldom_claimed_and_hardly_ever_reversed() -> None:
    found = winners(lambda generator: simulated(generator, [0.2, 0.0], 5))
    assert sum(each is not None for each in found) <= 0.1 * SWEEPS
    assert found.count("clip.max=0.5") <= 0.025 * SWEEPS


def test_an_outlier_among_the_seeds_is_removed_by_the_pairs() -> None:
    """A seed at which every configuration is far higher hides nothing."""

    def simulate(generator: np.random.Generator) -> Objectives:
        objectives = simulated(generator, [3.0, 0.0], 5)
        objectives[:, 2] += 100 * NOISE
        return objectives

    assert share(simulate) >= 0.8


@pytest.mark.parametrize("outlier", [-30.0, 30.0])
def test_an_outlier_in_one_run_makes_no_winner(outlier: float) -> None:
    def simulate(generator: np.random.Generator) -> Objectives:
        objectives = simulated(generator, [0.0, 0.0], 5)
        objectives[0, 0] += outlier * NOISE
        return objectives

    assert share(simulate) <= 0.07


@pytest.mark.parametrize("state", ["diverged", "interrupted"])
def test_a_mean_over_four_of_five_seeds_does_not_win_by_the_missing_one(state: str) -> None:
    """The seed at which the objectives are high is the one that the first configuration did not finish."""

    def simulate(generator: np.random.Generator) -> Table:
        objectives = simulated(generator, [0.0, 0.0], 5)
        worst = int(objectives[1].argmax())
        objectives[:, worst] += 10 * NOISE
        others = [seed for seed in range(5) if seed != worst]
        assert objectives[0, others].mean() < objectives[1].mean()
        return table_of(objectives, {(0, worst): state})

    assert winners(simulate).count("clip.max=0.5") <= (0 if state == "diverged" else 0.07 * SWEEPS)


def test_a_much_lower_mean_over_four_seeds_is_never_claimed() -> None:
    found = winners(lambda generator: table_of(simulated(generator, [-9.0, 0.0, 0.0], 5), {(0, 4): "diverged"}))
    assert "clip.max=0.5" not in found


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_all_diverged(seeds: int) -> None:
    states = {(row, seed): "diverged" for row in range(3) for seed in range(seeds)}
    table = table_of(simulated(np.random.default_rng(0), [0.0] * 3, seeds), states)
    first, following = conclusion(table, RESUME)
    assert first == f"Take none of these: all {3 * seeds} runs diverged."
    listed = ",".join(map(str, range(1, seeds + 1)))
    assert following.endswith(f": `python train.py -m clip.max=0.005,0.05 seed={listed}`")


NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
INTERVAL = re.compile(r"\((\S+) to \S+\)")
STATES = ("finished", "diverged", "pruned", "interrupted", "failed", "missing")


def drawn_table(draw: random.Random) -> Table:
    """A sweep of any size, whose runs end in any way, with losses and spreads of any magnitude."""
    configurations, seeds, scale = draw.randint(1, 8), draw.choice((1, 2, 3, 3, 5)), 10.0 ** draw.randint(-6, 6)
    spread, share = scale * 10.0 ** -draw.randint(0, 6), draw.choice((0.0, 0.1, 0.6))
    effects = [scale * (1 + draw.choice((0.0, 0.1, 1.0)) * number) for number in range(configurations)]
    objectives = np.array([[effect + spread * draw.gauss(0, 1) for _ in range(seeds)] for effect in effects])
    if draw.random() < 0.3:  # thresholds that limit nothing
        objectives[draw.randint(0, configurations - 1) :] = objectives[-1]
    states = {(row, seed): draw.choice(STATES) for row in range(configurations) for seed in range(seeds)
              if draw.random() < share}  # fmt: skip
    return table_of(objectives, states)


def counted(table: Table) -> set[str]:
    """The counts that a reader of the table can make: comparisons, further rows of a kind, and sums of columns."""
    head, *rows = render.cells(table)
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    intervals = [found[1] for row in cells if (found := INTERVAL.search(row["difference to best"]))]
    undecided = sum(float(low) <= 0 for low in intervals)
    stable = [row for row in cells if not row.get("diverged")]
    equal = sum(row["difference to best"].startswith("equal") for row in cells)
    unpaired = sum(
        row["difference to best"] not in ("best", "lowest mean")
        and not row["difference to best"].startswith("equal")
        and "(" not in row["difference to best"]
        and (not row["finished"].startswith("0") or bool(row.get("unfinished")))
        for row in stable
    )
    sums = [sum(int(row.get(name) or 0) for row in cells) for name in ("failed", "unfinished", "diverged")]
    return {str(number) for number in (len(intervals) + equal, undecided - 1, unpaired - 1, equal - 1, *sums)}


def test_every_number_in_a_conclusion_stands_in_the_table() -> None:
    """And a conclusion has at most five sentences, one per line, of which a command ends one without a period."""
    draw, kinds = random.Random(0), set()
    for _ in range(400):
        table = drawn_table(draw)
        sentences = conclusion(table, RESUME)
        assert 1 <= len(sentences) <= 5
        shown = " ".join([render.heading(table), *(cell for line in render.cells(table) for cell in line)])
        known = {*NUMBER.findall(shown), *counted(table), "95"}
        for sentence in sentences:
            assert sentence.endswith("." if sentence[-1] != "`" else "`"), sentence
            words = CODE.sub("", sentence)
            assert ". " not in words, sentence
            assert set(NUMBER.findall(words)) <= known, (sentence, shown)
            kinds.add(sentence.split("`")[0].split(":")[0][:12])
    assert len(kinds) >= 12, "every kind of sentence was drawn"


def test_no_cause_is_named() -> None:
    """A conclusion says which configuration has the lower loss, and never why."""
    draw = random.Random(1)
    text = " ".join(" ".join(conclusion(drawn_table(draw), RESUME)) for _ in range(100))
    assert not re.search(r"because|due to|thanks to|help|harm|cause", text)
