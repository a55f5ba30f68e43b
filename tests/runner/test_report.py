"""The report, checked on artificial sweeps with a known conclusion."""

import html
import json
import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from runner.errors import UserError, quote_override
from runner.report import aggregate, following, render, report, trials
from runner.report.conclusion import CODE, conclusion
from runner.report.override_text import format_override_value
from runner.report.rows import Row
from scripts import report as script
from tests import sweeps
from tests.runner.support import COUNTER, compose, composer, program
from tests.sweeps import FakeJob

RESUME = "python train.py sweep.resume=HERE"
write_sweep = partial(sweeps.write_sweep, compose=compose)


def grid(objectives: Mapping[str, Sequence[float | None]], **states: str) -> list[FakeJob]:
    """A job for every `policy@threshold` and seed; None: diverged. states: other states, by `policythreshold_seed`."""
    jobs = []
    for name, found in objectives.items():
        policy, _, threshold = name.partition("@")
        for seed, objective in enumerate(found, start=1):
            state = states.get(f"{policy}{threshold}_{seed}", "diverged" if objective is None else "finished")
            overrides = [f"clip={policy}", *([f"clip.max={threshold}"] if threshold else []), f"seed={seed}"]
            limit = float(threshold) if threshold else None
            jobs.append(FakeJob(overrides, objective if state == "finished" else None, state, limit))
    return jobs


T_975 = {2: 4.302653, 4: 2.776445}  # the 97.5th percentiles of Student's t, by degrees of freedom, from tables
T_2_BONFERRONI_3 = 7.648889  # the (1 - 0.05 / 6)th percentile with 2 degrees of freedom


def paired_interval(others: list[float], best: list[float], comparisons: int = 1) -> tuple[float, float, float]:
    """The mean difference and its t interval, in plain arithmetic."""
    differences = [other - one for other, one in zip(others, best, strict=True)]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    quantile = {1: T_975.get(len(differences) - 1), 3: T_2_BONFERRONI_3}[comparisons]
    return mean, mean - quantile * error, mean + quantile * error


def answer(folder: Path, jobs: list[FakeJob]) -> tuple[aggregate.Table, str]:
    table = aggregate.build([write_sweep(folder, jobs)])
    return table, " ".join(conclusion(table, RESUME))


def test_a_clear_winner(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({
        "none": [None, None, None], "norm@0.1": [1.80, 1.81, 1.82], "norm@1": [1.49, 1.50, 1.51],
        "norm@10": [2.0, 2.1, 2.2], "value@0.02": [1.70, 1.72, 1.71]}))  # fmt: skip
    mean, low, high = paired_interval([1.70, 1.72, 1.71], [1.49, 1.50, 1.51], comparisons=3)
    assert words.startswith(
        "Take `clip=norm clip.max=1`: 1.5000 ± 0.0100 over 3 seeds. All others that never diverged are higher; the "
        f"closest, `clip=value clip.max=0.02`, is higher by +{mean:.3f} ({low:.3f} to {high:.3f}), a 95 % interval, "
        "paired by seed and corrected for 3 comparisons. "
    )
    assert "`python train.py -m clip=norm clip.max=0.32,1,3.2 seed=1,2,3`" in words
    assert "resume" not in words
    assert [table.name(row) for row in table.rows] == [
        "clip=norm clip.max=1", "clip=value clip.max=0.02", "clip=norm clip.max=0.1", "clip=norm clip.max=10",
        "clip=none"]  # fmt: skip
    assert table.rows[0].standard_deviation == pytest.approx(statistics.stdev([1.49, 1.50, 1.51]))


def test_runs_on_different_data_are_not_compared(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({"norm@1": [1.0, 1.1, 1.2], "norm@2": [3.0, 3.1, 3.3]}))
    assert words.startswith("Take ")
    for trial in table.rows[0].trials:
        trial.values["data.name"] = "text"
    # The other runs were rejected before their configurations were saved.
    assert " ".join(conclusion(table, RESUME)) == words
    for trial in table.rows[1].trials:
        trial.values["data.name"] = "line"
    assert " ".join(conclusion(table, RESUME)) == (
        "No conclusion: the runs have different data (line, text), whose losses cannot be compared."
    )


def test_small_objectives_have_different_texts(tmp_path: Path) -> None:
    """In the table, in the conclusion, and in the pages."""
    table, words = answer(tmp_path, grid({"norm@1": [1e-5, 1.2e-5], "norm@2": [3e-5, 3.2e-5]}))
    assert [line[1] for line in render.cells(table)[1:]] == ["1.100e-05 ± 1.4e-06", "3.100e-05 ± 1.4e-06"]
    assert "`clip.max=1` has the lowest mean, 1.100e-05 ± 1.4e-06 over 2 seeds." in words
    assert render.cells(table)[2][3] == "+2.000e-05"


def test_the_next_commands_keep_the_fixed_overrides(tmp_path: Path) -> None:
    """With all that was not swept, and quoted for the shell and for Hydra: at the defaults it would be another job."""
    fixed = ["initial='it\\'s a \"text\".txt'", "+schedule.final=0.5", "clip.include=[weight.*]"]
    arguments = [*fixed, "clip=norm,value", "clip.max=1,2", "seed=1,2", "hydra/launcher=joblib", "sweep.dry_run=false"]
    write_sweep(tmp_path, grid({"norm@1": [1.0, 1.1], "norm@2": [2.0, 2.1]}), arguments=arguments)
    words = " ".join(conclusion(aggregate.build([tmp_path]), RESUME))
    seeds, beyond = re.findall(r"More seeds: `(.*?)`.*to extend it: `(.*?)`", words)[0]
    assert shlex.split(seeds) == ["python", "train.py", "-m", *fixed, "clip.max=1,2", "seed=1,2,3,4,5"]
    assert shlex.split(beyond) == ["python", "train.py", "-m", *fixed, "clip.max=0.25,0.5,1", "seed=1,2,3"]


ODD = "a b [c] it's `d`"  # text with what a shell, Hydra's grammar and Markdown read as their own


def test_the_printed_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of the three outputs: the options to take, what to try next, and how the sweep is resumed."""
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / ODD / name for name in ("1", "2")]
    arguments = [f"initial={quote_override(str(path))}" for path in files]
    jobs = [FakeJob(["clip.max=1", *argument, f"seed={seed}"], objective, state)
            for argument, objective in zip(([each] for each in arguments), (1.0, 2.0), strict=True)
            for seed, state in ((1, "finished"), (2, "finished"), (3, "missing"))]  # fmt: skip
    swept = ("initial", "seed")
    sweep = write_sweep(tmp_path / ODD, jobs, swept, arguments=[arguments[0], "seed=1,2,3"])
    printed = report([sweep])
    markdown = (sweep / "report.md").read_text()
    page = (sweep / "report.html").read_text()
    lead, following, resume = (
        CODE.fullmatch(code[0])[2].strip() for code in CODE.finditer(markdown.partition("## Conclusion")[2])
    )
    assert shlex.split(lead) == [arguments[0]]
    for command in (lead, following, resume):
        assert command in printed
        assert f"<code>{html.escape(command, quote=False)}</code>" in page
    assert shlex.split(printed.splitlines()[-1]) == [f"{ODD}/report.html"]
    python, script_, flag, *overrides = shlex.split(following)
    assert (python, script_, flag) == ("python", "train.py", "-m")
    done = program("-m", *overrides, "sweep.dry_run=true", cwd=tmp_path, script=COUNTER)
    assert done.stdout.splitlines()[-1] == "10 jobs, of which 10 would run", done.stderr
    assert shlex.split(resume) == ["python", "train.py", f"sweep.resume={quote_override(ODD)}"]
    again = program(*shlex.split(resume)[2:], cwd=tmp_path, script=COUNTER)
    assert "has changed since it was planned" in again.stderr, "the folder was found"


@pytest.mark.parametrize(
    "value",
    [
        'a b, c\'s "d"',
        "a\\b",
        "a b\\",
        "a\\\\'",
        "",
        "=~(",
        ["output.*", "bias"],
        [],
        0.5,
        0.123456789,
        1e-7 / 3,
        True,
        None,
        7,
    ],
)
def test_a_formatted_value_is_read_back_by_hydra(value: Any) -> None:
    (override,) = composer().parse([f"initial={format_override_value(value)}"])
    assert override.value() == value


def test_a_small_lead_is_no_winner(tmp_path: Path) -> None:
    one, other = [1.50, 1.60, 1.55], [1.66, 1.60, 1.69]
    table, words = answer(tmp_path, grid({"norm@1": one, "norm@2": other}))
    mean, low, high = paired_interval(other, one)
    assert low < 0 < mean
    cell = f"+{mean:.2f} ({low:.2f} to {high:.2f})"
    assert words.startswith(
        "No winner: `clip.max=1` has the lowest mean, 1.5500 ± 0.0500 over 3 seeds, and `clip.max=2` cannot be told "
        f"apart from it: the difference is {cell}, a 95 % interval, paired by seed. "
        "More seeds: `python train.py -m clip.max=1,2 seed=1,2,3,4,5,6` "
        "The best value is at the edge of the grid: `clip.max=1` is the lowest tried; to extend it: "
    )
    assert [line[3] for line in render.cells(table)] == ["difference to best", "lowest mean", cell]


def test_configurations_that_cannot_be_told_apart(tmp_path: Path) -> None:
    """The closest is named, the others counted, and only they are repeated."""
    table, words = answer(tmp_path, grid({
        "norm@1": [1.50, 1.54, 1.52], "norm@2": [1.52, 1.55, 1.51], "none": [1.50, 1.55, 1.54], "norm@4": [1.8, 1.9],
        "norm@8": [9.50, 9.54, 9.53],
    }))  # fmt: skip
    assert words.startswith(
        "No winner: `clip=norm clip.max=1` has the lowest mean, 1.5200 ± 0.0200 over 3 seeds, and `clip="
    )
    assert " and 1 more cannot be told apart from it: the difference of `clip=" in words
    assert "`clip=norm clip.max=4` cannot be compared with it: they have fewer than three seeds in common." in words
    assert "clip=norm,none clip.max=1,2,4 seed=1,2,3,4,5,6`" in words
    differences = {table.name(row): line[-3] for row, line in zip(table.rows, render.cells(table)[1:], strict=True)}
    assert differences["clip=norm clip.max=4"] == "+0.3300, 2 common seeds"
    assert differences["clip=norm clip.max=8"].startswith("+8.003 (7.9")


def test_seeds_are_added_to_the_configurations_themselves(tmp_path: Path) -> None:
    """One grid of clip=norm clip.max=1 and clip=autoclip would cap the latter, which is another configuration."""
    found = {"norm@1": [1.5], "norm@2": [1.6], "autoclip": [1.7], "none": [1.8]}
    table, words = answer(tmp_path, grid(found))
    commands = re.findall(r"`(python .*?)`", words.partition("More seeds, in sweeps to report together: ")[2])
    assert commands[:3] == [
        "python train.py -m clip=norm clip.max=1,2 seed=1,2,3,4,5",
        "python train.py -m clip=autoclip seed=1,2,3,4,5",
        "python train.py -m clip=none seed=1,2,3,4,5",
    ]
    table.rows = [row for row in table.rows if row.policy != "autoclip"]
    assert "More seeds: `python train.py -m clip=norm,none clip.max=1,2 seed=1,2,3,4,5`" in conclusion(table, RESUME)


def test_only_a_winner_is_highlighted(tmp_path: Path) -> None:
    for name, other, winner in (("far", [2.5, 2.6, 2.8], True), ("near", [1.51, 1.6, 1.69], False)):
        sweep = write_sweep(tmp_path / name, grid({"norm@1": [1.50, 1.60, 1.65], "norm@2": other}))
        printed = report([sweep])
        assert ("| **1** " in (sweep / "report.md").read_text()) is winner
        assert ('<tr class="best">' in (sweep / "report.html").read_text()) is winner
        assert ("lowest mean " in printed.partition("\n\n")[2].partition("\n\n")[0]) is not winner


def test_values_keep_their_text_in_the_tables(tmp_path: Path) -> None:
    """A number is not formatted anew, a pipe does not end a cell of Markdown, and a line break does not end a line."""
    values = ["a|b", "1e3", "00", "a\nb"]
    jobs = [FakeJob([f"seed={seed}"], 1.0 + seed) for seed in (1, 2)]
    sweep = write_sweep(tmp_path, jobs, ("seed",))
    table = aggregate.build([sweep])
    table.rows = [Row(row.values | {"initial": value}, row.trials) for row in table.rows for value in values]
    table.columns = ["initial"]
    markdown = render.markdown(table, {}, "Title", ["One."]).partition("| initial")[2].splitlines()[2:6]
    assert [line.split()[1] for line in markdown] == [r"a\|b", "1e3", "00", r"'a\nb'"]
    lines = render.text(table, ["One."]).splitlines()
    assert [line.split()[0] for line in lines[3:7]] == ["a|b", "1e3", "00", r"'a\nb'"]


def test_a_difference_that_is_the_same_at_all_seeds_has_no_width(tmp_path: Path) -> None:
    one = [1.1, 1.3, 1.2]
    table, words = answer(tmp_path, grid({"norm@1": one, "norm@2": [value + 0.1 for value in one]}))
    assert words.startswith("Take ")
    assert render.cells(table)[2][3] == "+0.1000 (0.1000 to 0.1000)"


ONE, HIGHER, NEAR = [1.1, 1.3, 1.2], [2.1, 2.35, 2.2], [1.2, 1.2, 1.3]


def differences(table: aggregate.Table) -> dict[str, str]:
    """The cells on the difference to the best, by the name of the row."""
    head, *rows = render.cells(table)
    column = head.index("difference to best")
    return {table.name(row): cells[column] for row, cells in zip(table.rows, rows, strict=True)}


def test_equal_configurations_need_no_more_seeds(tmp_path: Path) -> None:
    """An inactive threshold gives what no clipping gives; a higher one gives it again, and a lower one may not."""
    table, words = answer(tmp_path / "all", grid({"none": ONE, "norm@10": ONE}))
    assert words == (
        "No difference: `clip=none` and `clip=norm clip.max=10` gave the same result at every common seed, "
        "1.2000 ± 0.1000 over 3 seeds."
    )
    assert differences(table) == {"clip=none": "lowest mean", "clip=norm clip.max=10": "equal"}
    assert render.winner(table) is None
    _, words = answer(tmp_path / "high", grid({"norm@100": ONE, "norm@10": ONE}))
    assert words.startswith("No difference: `clip.max=100` and `clip.max=10` gave the same result")
    assert "to extend it" not in words
    _, words = answer(tmp_path / "low", grid({"norm@10": ONE, "norm@100": ONE}))
    assert words.endswith("`clip.max=10` is the lowest tried; to extend it: "
                          "`python train.py -m clip.max=0.1,1,10 seed=1,2,3`")  # fmt: skip


def test_a_winner_may_be_several_equal_configurations(tmp_path: Path) -> None:
    table, words = answer(tmp_path / "one", grid({"none": ONE, "norm@10": ONE, "norm@1": HIGHER}))
    assert words.startswith(
        "Take `clip=none`: 1.2000 ± 0.1000 over 3 seeds (`clip=norm clip.max=10` gave the same result at every common "
        "seed). All others that never diverged are higher; the closest, `clip=norm clip.max=1`, is higher by +1.02 ("
    )
    assert "corrected for 2 comparisons" in words
    assert "More seeds" not in words
    assert differences(table)["clip=norm clip.max=10"] == "equal"
    assert render.winner(table) is table.rows[0]
    _, words = answer(tmp_path / "diverged", grid({"none": ONE, "norm@10": ONE, "value@1": [None] * 3}))
    assert words.startswith("Take `clip=none`: 1.2000 ± 0.1000 over 3 seeds (`clip=norm clip.max=10` gave the same "
                            "result at every common seed). No other configuration finished")  # fmt: skip


def test_equal_configurations_get_no_seeds_beside_those_that_are_undecided(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({"none": ONE, "norm@10": ONE, "norm@20": ONE, "norm@1": NEAR}))
    assert words.startswith(
        "No winner: `clip=none` has the lowest mean, 1.2000 ± 0.1000 over 3 seeds (`clip=norm clip.max=10` and 1 more "
        "gave the same result at every common seed), and `clip=norm clip.max=1` cannot be told apart from it: the diff"
    )
    seeds = words.partition("More seeds")[2].partition("The best")[0]
    assert seeds.startswith(": `python train.py -m clip=none,norm clip.max=1 seed=")
    assert "10" not in seeds


def test_rounding_makes_no_difference(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({"none": ONE, "norm@10": [value * (1 + 1e-15) for value in ONE]}))
    assert words.startswith("No difference: ")


def test_runs_without_a_known_seed_are_not_paired(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({"norm@1": [1.0, 1.1, 1.2], "norm@2": [3.0, 3.1, 3.3]}))
    assert words.startswith("Take")
    for trial in table.trials:
        trial.values["seed"] = None
    assert conclusion(table, RESUME)[0].startswith("No winner, since fewer than three seeds finished: ")
    assert render.winner(table) is None


def test_a_pruned_or_interrupted_run_is_not_a_result(tmp_path: Path) -> None:
    """A configuration is compared at the seeds that it finished; pruned at every one, it is no candidate."""
    one, other = [1.0, 1.1, 1.2, 1.1, 1.2], [2.0, 2.1, 2.25, 2.1, 2.2]
    jobs = {"norm@1": one, "norm@2": other, "norm@4": [0.5] * 5}
    states = {f"norm4_{seed}": "pruned" for seed in range(1, 6)}
    table, words = answer(tmp_path / "1", grid(jobs, norm2_1="pruned", norm2_2="interrupted", **states))
    mean, _, _ = paired_interval(other[2:], one[2:])
    assert words.startswith("Take `clip.max=1`: ")
    cells = {line[0]: line for line in render.cells(table)[1:]}
    assert cells["2"][5].startswith(f"+{mean:.2f} (")
    assert cells["2"][5].endswith(", 3 common seeds")
    assert cells["4"][1:6] == ["-", "0 of 5", "", "5", ""]
    table, words = answer(tmp_path / "2", grid(jobs, **states | {"norm4_1": "missing"}))
    assert words.startswith("No winner: `clip.max=1` has the lowest mean, ")
    assert "`clip.max=4` cannot be compared with it" in words


def test_the_best_is_chosen_over_the_seeds_in_common(tmp_path: Path) -> None:
    """A configuration that lacks the seed at which all are high has a lower mean, and is not better."""
    one, other = [1.0, 1.1, 1.2, 9.0], [1.5, 1.61, 1.7, None]
    table, words = answer(tmp_path, grid({"norm@1": one, "norm@2": other}, norm2_4="missing"))
    assert statistics.fmean(one) > statistics.fmean(other[:3])
    assert words.startswith("Take `clip.max=1`")
    assert render.cells(table)[2][4].startswith("+0.503 (")


def test_edges_of_the_grid(tmp_path: Path) -> None:
    """Of every numeric key, in the ratio of the last two values; whole numbers stay whole, and above 0."""
    jobs = [FakeJob(["clip=norm", f"clip.max={limit}", f"lr={lr}", f"steps={steps}", f"seed={seed}"],
                    1 + limit + 1 / lr - steps / 1000 + 0.01 * seed)
            for limit in (3, 10) for lr in (0.01, 0.1) for steps in (100, 200) for seed in (1, 2, 3)]  # fmt: skip
    sweep = write_sweep(tmp_path, jobs, ("clip.max", "lr", "steps", "seed"), arguments=["clip=norm", "clip.max=3,10"])
    table = aggregate.build([sweep])
    edge = conclusion(table, RESUME)[-1]
    assert edge == (
        "The best value is at the edge of the grid: `clip.max=3` is the lowest tried and `steps=200` is the highest "
        "tried and `lr=0.1` is the highest tried; to extend it: "
        "`python train.py -m clip=norm clip.max=0.27,0.9,3 steps=200,400,800 lr=0.1,1,10 seed=1,2,3`"
    )
    table.accepts = lambda overrides: all(float(line[3:]) <= 1 for line in overrides if line.startswith("lr="))
    assert "lr=0.1,1 " in conclusion(table, RESUME)[-1]


def test_a_refused_value_is_not_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing lies beyond optimizer.momentum=0.9 in a grid with 0, which the schema knows."""
    jobs = [FakeJob([f"optimizer.momentum={momentum}", f"seed={seed}"], 2 - momentum + 0.01 * seed * seed * momentum)
            for momentum in (0.0, 0.9) for seed in (1, 2, 3)]  # fmt: skip
    sweep = sweeps.write_sweep(tmp_path, jobs, ("optimizer.momentum", "seed"))
    assert "momentum=0.9,1.8,2.7 " in report([sweep])
    script.main([str(sweep)])
    printed = capsys.readouterr().out
    assert "Take optimizer.momentum=0.9: " in printed
    assert "edge" not in printed


@pytest.mark.parametrize(
    ("neighbor", "edge", "beyond"),
    [(1.0, 10.0, [100.0, 1000.0]), (3.0, 1.0, [0.33, 0.11]), (0.0, 0.9, [1.8, 2.7]), (0.9, 0.0, [-0.9, -1.8]),
     (2, 1, []), (4, 2, [1]), (16, 32, [64, 128]), (1.0, math.inf, []), (math.inf, 1.0, []),
     (1.0, 1.004, [1.008016, 1.012048])],
)  # fmt: skip
def test_values_beyond_an_edge(neighbor: float, edge: float, beyond: list[float]) -> None:
    found = list(following._beyond(neighbor, edge))
    assert found == pytest.approx(beyond, rel=1e-6)
    assert all(type(value) is type(edge) for value in found)


def test_many_configurations_are_not_all_repeated(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({f"norm@{limit}": [float(limit)] for limit in range(1, 8)}))
    assert "More seeds: `python train.py -m clip.max=1,2,3 seed=1,2,3,4,5`" in words


def test_all_runs_diverged(tmp_path: Path) -> None:
    _, words = answer(tmp_path / "norm", grid({"norm@1": [None, None], "norm@5": [None, None], "none": [None, None]}))
    assert words.startswith("Take none of these: all 6 runs diverged.")
    assert words.endswith("Next, thresholds below 1, the lowest tried: "
                          "`python train.py -m clip=norm clip.max=0.01,0.1 seed=1,2`")  # fmt: skip
    _, words = answer(tmp_path / "none", grid({"none": [None, None]}))
    assert words.endswith("all 2 runs diverged. Next, clipping: `python train.py -m clip=norm seed=1,2`")
    _, words = answer(tmp_path / "one", grid({"norm@1": [None]}))
    assert words.startswith("Take none of these: the only run diverged. Next, ")
    _, words = answer(tmp_path / "ended", grid({"norm@1": [None, 1.0]}, norm1_2="missing"))
    assert words.startswith("Take none of these: the only run that ended diverged. Next, ")


def test_a_finished_run_without_an_objective_is_no_result(tmp_path: Path) -> None:
    """Its validation loss was never finite; it has finished nevertheless, as the heading says."""
    jobs = [FakeJob(["clip=norm", "clip.max=1", f"seed={seed}"], None) for seed in (1, 2)]
    table, words = answer(tmp_path / "finished", jobs)
    assert "2 finished" in render.heading(table)
    assert words == "Nothing can be recommended: no finished run has a finite validation loss."
    jobs[1].state = "diverged"
    _, words = answer(tmp_path / "diverged", jobs)
    assert words.startswith("Take none of these: no finished run has a finite validation loss; 1 run diverged. Next")
    jobs[1].state = "missing"
    _, words = answer(tmp_path / "missing", jobs)
    assert words.startswith("Nothing can be recommended yet: no finished run has a finite validation loss. Of 2 runs")


def test_every_configuration_diverged_at_a_seed(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({"norm@1": [1.0, None, 1.1], "norm@5": [0.5, None, None]}))
    assert "Take none of these as it is" in words
    assert "`clip.max=1`, finished at 2 of 3 seeds" in words
    assert "`python train.py -m clip.max=0.01,0.1 seed=1,2,3`" in words
    assert table.stable == []


def test_a_configuration_that_diverges_at_a_seed_is_not_the_best(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({"norm@1": [1.5, 1.6, 1.55], "norm@5": [1.0, 1.1, None]}))
    assert words.startswith("Take `clip.max=1`")
    assert "No other configuration finished without a diverged run." in words
    assert (
        "`clip.max=1` is the lowest tried; to extend it: `python train.py -m clip.max=0.04,0.2,1 seed=1,2,3`" in words
    )
    assert [row.rank for row in table.rows] == [0, 1]
    assert render.cells(table)[2][2:4] == ["2 of 3", "1"]


def test_one_seed(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({"norm@1": [1.5], "norm@2": [1.4], "norm@4": [1.6]}))
    assert words == (
        "No winner, since fewer than three seeds finished: `clip.max=2` has the lowest mean, 1.4000 over 1 seed. "
        "More seeds: `python train.py -m clip.max=2,1,4 seed=1,2,3,4,5`"
    )


def test_missing_failed_and_interrupted_jobs(tmp_path: Path) -> None:
    jobs = grid({"norm@1": [1.5, 1.6, 1.55], "norm@2": [2.0, 2.1, 2.2]}, norm2_3="missing", norm2_1="failed",
                norm1_3="interrupted")  # fmt: skip
    table, words = answer(tmp_path, jobs)
    assert "Of 6 runs, 1 failed and 2 did not end: " in words
    assert RESUME in words
    head, first, second = render.cells(table)
    assert head[2:5] == ["finished", "failed", "unfinished"]
    assert first[2:5] == ["2 of 3", "", "1"]
    assert second[2:5] == ["1 of 3", "1", "1"]
    assert render.failures(table)[0].endswith("failed: artificial at step 10")


def test_nothing_has_finished(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({"norm@1": [1.5, 1.6]}, norm1_1="missing", norm1_2="missing"))
    assert "Nothing can be recommended yet" in words


def test_only_keys_that_differ_are_columns(tmp_path: Path) -> None:
    """A policy brings its own scope and norm along; those are no columns, and neither is the seed."""
    jobs = [FakeJob([f"clip={c}", f"lr={lr}", f"seed={s}"], 1.0) for c in ("norm", "value") for lr in (1, 2)
            for s in (1, 2)]  # fmt: skip
    table = aggregate.build([write_sweep(tmp_path, jobs, ("clip", "lr", "seed"))])
    assert table.columns == ["clip.name", "clip.max", "lr"]
    assert len(table.rows) == 4


def test_several_sweeps_are_read_together(tmp_path: Path) -> None:
    one = write_sweep(tmp_path / "one", grid({"norm@1": [1.5, 1.6], "norm@2": [None, 1.9]}))
    two = write_sweep(tmp_path / "two", grid({"norm@1": [1.5, 1.6, 1.7]}))
    table = aggregate.build([one, two])
    assert [len(row.trials) for row in table.rows] == [3, 2]
    assert table.duplicates == 2


def plain_run(folder: Path, overrides: list[str], objective: float) -> Path:
    """A run that was started alone, with its configuration and its overrides."""
    sweeps.write_run(folder, FakeJob(overrides, objective, limit=1.0))
    OmegaConf.save(OmegaConf.structured(compose(*overrides)), folder / "config.yaml")
    (folder / ".hydra").mkdir()
    OmegaConf.save(overrides, folder / ".hydra" / "overrides.yaml")
    return folder


def test_the_overrides_of_runs_that_were_started_alone_are_known(tmp_path: Path) -> None:
    """From their folders, except the seed, and those in which the runs differ."""
    one = plain_run(tmp_path / "a", ["lr=0.5", "clip=norm", "clip.max=1", "seed=1"], 1.0)
    assert "More seeds: python train.py -m lr=0.5 clip=norm clip.max=1 seed=1,2,3,4,5\n" in report([one])
    two = plain_run(tmp_path / "b", ["lr=0.5", "clip=norm", "clip.max=2", "seed=1"], 2.0)
    assert "More seeds: python train.py -m lr=0.5 clip=norm clip.max=1,2 seed=1,2,3,4,5\n" in report([one, two])
    three = plain_run(tmp_path / "c", ["steps=20", "lr=0.5", "clip=norm", "clip.max=2", "seed=2"], 2.0)
    four = plain_run(tmp_path / "d", ["lr=0.5", "clip=norm", "clip.max=2", "seed=3", "steps=20"], 2.0)
    assert "python train.py -m steps=20 lr=0.5 clip=norm clip.max=2 seed=2,3,1,4,5\n".replace(
        "2,3,1,4,5", "1,2,3,4,5"
    ) in (report([three, four]))
    (two / ".hydra" / "overrides.yaml").unlink()
    assert "More seeds, with the other overrides of these runs: python train.py -m clip.max=1,2 seed" in report(
        [one, two]
    )


def test_overrides_that_explain_no_difference_are_not_all_known(tmp_path: Path) -> None:
    """One run has by an option what the other has by its own keys: neither may be left out."""
    one = plain_run(tmp_path / "a", ["lr=0.5", "clip=norm", "clip.max=1", "seed=1"], 1.0)
    two = plain_run(tmp_path / "b", ["clip=norm", "clip.max=1", "seed=2"], 1.0)
    for name in ("config.yaml",):
        (two / name).write_text((one / name).read_text().replace("seed: 1", "seed: 2"))
    assert "More seeds, with the other overrides of these runs: python train.py -m clip=norm " in report([one, two])


def test_the_sweep_with_the_unfinished_run_is_resumed(tmp_path: Path) -> None:
    """Also if it is not the first one; and a run that was named alone is resumed alone."""
    one = write_sweep(tmp_path / "one", grid({"norm@1": [1.5, 1.6]}))
    two = write_sweep(tmp_path / "two", grid({"norm@2": [1.5, 1.6]}, norm2_2="interrupted"))
    assert f"Of 4 runs, 1 did not end: python train.py sweep.resume={two}\n" in report([one, two])
    assert f" 1 did not end: python train.py resume={two / '1'}\n" in report([two / "1"])


def test_a_repeated_run_that_diverged_once_has_diverged(tmp_path: Path) -> None:
    folders = [write_sweep(tmp_path / str(number), grid({"norm@1": [objective, 1.6]}))
               for number, objective in enumerate((1.5, None))]  # fmt: skip
    for order in (folders, folders[::-1]):
        (row,) = aggregate.build(order).rows
        assert row.counts == {"diverged": 1, "finished": 1}


def test_the_threshold_of_a_row_and_the_share_of_clipped_steps(tmp_path: Path) -> None:
    jobs = [FakeJob(["clip=norm", "clip.max=2", "seed=1"], 1.0, limit=2.0, clipped=1.0),
            FakeJob(["clip=autoclip", "seed=1"], 1.1, limit=0.7, clipped=0.0),
            FakeJob(["clip=none", "seed=1"], 1.2),
            FakeJob(["clip=zclip", "clip.max=1", "seed=1"], 1.3, limit=0.4)]  # fmt: skip
    table = aggregate.build([write_sweep(tmp_path, jobs)])
    # zclip's max is a cap beside its own limit, which is what counts.
    assert [row.threshold for row in table.rows] == [2.0, pytest.approx(0.7), None, pytest.approx(0.4)]
    assert [row.clipped for row in table.rows[:2]] == [1.0, 0.0]
    every = np.concatenate([t.series["grad_norm/before"].values for t in table.rows[0].trials])
    assert table.rows[0].norm == pytest.approx(float(np.median(every)))


def test_the_files_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = grid({"none": [None] * 3, "norm@1": [1.49, 1.50, 1.51], "norm@10": [2.0, None, 2.0],
                 "value@0.02": [1.7, 1.71, 1.73]})  # fmt: skip
    sweep = write_sweep(tmp_path / "sweep", jobs)
    script.main([str(sweep)])
    printed = capsys.readouterr().out
    assert "Take clip=norm clip.max=1" in printed
    written = {path.name for path in sweep.glob("report*")}
    names = {f"report_{name}.png" for name in ("objective", "loss", "norms", "distribution", "clipped")}
    assert written == names | {"report.md", "report.html"}
    markdown = (sweep / "report.md").read_text()
    assert "```bash\npython train.py -m artificial arguments\n```" in markdown
    assert re.search(r"\| \*\*norm\*\* +\| \*\*1\*\* +\| \*\*1.5000 ± 0.0100\*\* +\| \*\*3 of 3\*\* +\|", markdown)
    assert set(re.findall(r"\]\((report_\w+\.png)\)", markdown)) == names
    page = (sweep / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?:|@import|url\(|<script|<link", page)
    assert "<code>clip=norm clip.max=1</code>" in page


def test_the_report_says_what_clipping_did(tmp_path: Path) -> None:
    """In the best run of each configuration; in the terminal for the first one only."""
    jobs = [FakeJob(["clip=norm", f"clip.max={limit}", "seed=1"], objective, limit=limit, clipped=share)
            for limit, objective, share in ((1.0, 1.5, 0.0), (2.0, 2.0, 1.0))]  # fmt: skip
    sweep = write_sweep(tmp_path / "sweep", jobs)
    printed = report([sweep])
    lines = [f"clip.max={limit} ({sweep}/{job}): {share} % of the logged steps; {word}"
             for limit, job, share, word in ((1, 0, "0.0", "inactive"), (2, 1, "100.0", "step limiter"))]  # fmt: skip
    assert f"Clipping with {lines[0]}" in printed
    assert lines[1] not in printed
    markdown, page = ((sweep / name).read_text() for name in ("report.md", "report.html"))
    for line in lines:
        assert f"- {line}" in markdown
        assert line in html.unescape(page)


def test_user_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, line in (([], "there is no sweep"), (["nowhere"], "not a sweep or a run")):
        with pytest.raises(SystemExit) as end:
            script.main(arguments)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert (error.count("\n"), line in error) == (1, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'needs matplotlib, scipy and tabulate: pip install -c constraints\.txt -e "\.\[report\]"'
    ):
        report([tmp_path])


def test_the_series_of_a_run(tmp_path: Path) -> None:
    """As arrays in the order of the steps; of a run that has only begun, and of one that was resumed."""
    assert trials.read_series(tmp_path) == {}
    lines = [{"step": 1, "loss/train": 3.0, "lr": 0.1}, {"step": 3, "loss/train": 1.0}, {"step": 2, "loss/train": 2.0},
             {"step": 3, "loss/val": 0.5}, {"step": 3, "loss/train": 1.5}]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "loss/tr')
    found = trials.read_series(tmp_path)
    assert found.keys() == {"loss/train", "loss/val"}
    assert found["loss/train"].steps.tolist() == [1, 2, 3]
    assert found["loss/train"].values.tolist() == [3.0, 2.0, 1.5]
    assert found["loss/val"].values.tolist() == [0.5]


def test_a_damaged_line_of_metrics_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep(tmp_path, grid({"norm@1": [1.5]})) / "0" / "metrics.jsonl"
    path.write_text("{\n" + path.read_text())
    with pytest.raises(SystemExit) as end:
        script.main([str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {path}: line 1 is not a JSON object with a step and numbers\n"


def test_a_large_sweep(tmp_path: Path) -> None:
    """Every run is read and counted, in the order of their means, with all pictures."""
    objectives: dict[str, list[float | None]] = {
        f"{policy}@{threshold}": [1.5 + 0.001 * seed + 0.1 * threshold + shift for seed in range(2)]
        for shift, policy in enumerate(("norm", "value"))
        for threshold in (0.1, 0.5, 1, 4, 16)
    }
    text = report([write_sweep(tmp_path, grid(objectives))])
    assert "10 configurations, 20 runs: 20 finished" in text
    assert "clip=norm clip.max=0.1 has the lowest mean, 1.5105 ± 0.00071 over 2 seeds." in text
    assert len(list(tmp_path.glob("report_*.png"))) == 5
