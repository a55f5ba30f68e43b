"""The report, checked on artificial sweeps with a known conclusion."""

import html
import json
import math
import re
import shlex
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.errors import UserError, quote_override
from runner.report import aggregate, plots, render, report, trials
from runner.report.conclusion import CODE, conclusion
from scripts import report as script
from tests import sweeps
from tests.runner.support import COUNTER, compose, composer, program
from tests.sweeps import FakeJob

RESUME = "python train.py sweep.resume=HERE"
write_sweep = partial(sweeps.write_sweep, compose=compose)


def grid(objectives: dict[str, list[float | None]], **states: str) -> list[FakeJob]:
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


def answer(folder: Path, jobs: list[FakeJob]) -> tuple[aggregate.Table, str]:
    table = aggregate.build([write_sweep(folder, jobs)])
    return table, " ".join(conclusion(table, RESUME))


def test_a_clear_winner(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({
        "none": [None, None, None], "norm@0.1": [1.80, 1.81, 1.82], "norm@1": [1.49, 1.50, 1.51],
        "norm@10": [2.0, 2.1, 2.2], "value@0.02": [1.70, 1.72, 1.71]}))  # fmt: skip
    assert words.startswith("Take `clip=norm clip.max=1`: 1.5000 ± 0.0100 over 3 seeds. Certainty: clear; the next, "
                            "`clip=value clip.max=0.02`, is 0.21 behind")  # fmt: skip
    errors = 0.21 / math.hypot(0.01 / math.sqrt(3), 0.01 / math.sqrt(3))
    assert f"{errors:.1f} standard errors" in words
    assert "`python train.py -m clip=norm clip.max=0.32,1,3.2 seed=1,2,3,4,5,6`" in words
    assert " tie " not in words
    assert "resume" not in words
    assert [table.name(row) for row in table.rows] == [
        "clip=norm clip.max=1", "clip=value clip.max=0.02", "clip=norm clip.max=0.1", "clip=norm clip.max=10",
        "clip=none"]  # fmt: skip
    assert table.rows[0].standard_deviation == pytest.approx(statistics.stdev([1.49, 1.50, 1.51]))


def test_runs_on_different_data_are_not_compared(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({"norm@1": [1.0, 1.1], "norm@2": [3.0, 3.1]}))
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
    assert words.startswith("Take `clip.max=1`: 1.100e-05 ± 1.4e-06 over 2 seeds.")
    assert "(3.100e-05 ± 1.4e-06 over 2 seeds)" in words


def test_the_next_command_keeps_the_fixed_overrides(tmp_path: Path) -> None:
    """With all that was not swept, and quoted for the shell and for Hydra: at the defaults it would be another job."""
    fixed = ["initial='it\\'s a \"text\".txt'", "+schedule.final=0.5", "clip.include=[weight.*]"]
    arguments = [*fixed, "clip=norm,value", "clip.max=1,2", "seed=1,2", "hydra/launcher=joblib", "sweep.dry_run=false"]
    write_sweep(tmp_path, grid({"norm@1": [1.0, 1.1], "norm@2": [2.0, 2.1]}), arguments=arguments)
    words = " ".join(conclusion(aggregate.build([tmp_path]), RESUME))
    (command,) = re.findall(r"Next.*?: `(.*?)`", words)
    own = ["clip.max=0.32,1,1.4", "seed=1,2,3,4"]
    assert shlex.split(command) == ["python", "train.py", "-m", *fixed, *own]


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
    take, following, resume = (
        [CODE.fullmatch(code[0])[2].strip() for code in CODE.finditer(markdown.partition("## Conclusion")[2])][number]
        for number in (0, -2, -1)
    )
    assert shlex.split(take) == [arguments[0]]
    for command in (take, following, resume):
        assert command in printed
        assert f"<code>{html.escape(command, quote=False)}</code>" in page
    assert shlex.split(printed.splitlines()[-1]) == [f"{ODD}/report.html"]
    python, script_, flag, *overrides = shlex.split(following)
    assert (python, script_, flag) == ("python", "train.py", "-m")
    done = program("-m", *overrides, "sweep.dry_run=true", cwd=tmp_path, script=COUNTER)
    assert done.stdout.splitlines()[-1] == "4 jobs, of which 4 would run", done.stderr
    assert shlex.split(resume) == ["python", "train.py", f"sweep.resume={quote_override(ODD)}"]
    again = program(*shlex.split(resume)[2:], cwd=tmp_path, script=COUNTER)
    assert "has changed since it was planned" in again.stderr, "the folder was found"


@pytest.mark.parametrize(
    "value", ['a b, c\'s "d"', "a\\b", "a b\\", "a\\\\'", "", "=~(", ["output.*", "bias"], [], 0.5, True, None, 7]
)
def test_a_formatted_value_is_read_back_by_hydra(value: Any) -> None:
    (override,) = composer().parse([f"initial={aggregate.format_override_value(value)}"])
    assert override.value() == value


def test_a_small_lead_is_not_called_clear(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({"norm@1": [1.50, 1.60, 1.55], "norm@2": [1.66, 1.60, 1.69]}))
    assert words.startswith("Take `clip.max=1`")
    assert "Certainty: likely, not certain" in words
    assert "the lowest threshold tried; the best may be lower" in words


def test_a_tie(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({
        "norm@1": [1.50, 1.54, 1.52], "norm@2": [1.51, 1.55, 1.53], "none": [1.50, 1.55, 1.53], "norm@4": [1.8, 1.9],
    }))  # fmt: skip
    assert words.startswith("Take any of `clip=norm clip.max=1`, `clip=none`, `clip=norm clip.max=2`: they tie within")
    assert "seeds" in words
    assert "clipping neither helps nor harms" in words
    assert [row.tied for row in table.rows] == [True, True, True, False]
    marks = [line[-1] for line in render.cells(table)[1:]]
    assert marks == ["best, tied", "tied with the best", "tied with the best", ""]


def test_the_boundary_of_a_tie(tmp_path: Path) -> None:
    """A tie ends where the means are further apart than the sum of the two standard errors."""
    near = [1.0, 1.2]  # mean 1.1, standard error 0.1
    for shift, tied in ((0.199, True), (0.201, False)):
        jobs = grid({"norm@1": list(near), "norm@2": [value + shift for value in near]})
        table, _ = answer(tmp_path / str(shift), jobs)
        assert table.rows[0].standard_error == pytest.approx(0.1)
        assert table.rows[0].tied is tied


def test_all_runs_diverged(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({"norm@1": [None, None], "norm@5": [None, None], "none": [None, None]}))
    assert words.startswith("Take none of these: all 6 runs diverged.")
    assert "thresholds below 1, the lowest tried (such as 0.1)" in words


def test_every_configuration_diverged_at_a_seed(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({"norm@1": [1.0, None, 1.1], "norm@5": [0.5, None, None]}))
    assert "Take none of these as it is" in words
    assert "`clip.max=1`, finished at 2 of 3 seeds" in words
    assert table.stable == []


def test_a_configuration_that_diverges_at_a_seed_is_not_the_best(tmp_path: Path) -> None:
    table, words = answer(tmp_path, grid({"norm@1": [1.5, 1.6, 1.55], "norm@5": [1.0, 1.1, None]}))
    assert words.startswith("Take `clip.max=1`")
    assert "no other configuration finished at every seed" in words
    assert "at 5 `clip=norm` diverged" in words
    assert [row.rank for row in table.rows] == [0, 1]
    assert render.cells(table)[2][2:4] == ["2 of 3", "1"]


def test_one_seed(tmp_path: Path) -> None:
    _, words = answer(tmp_path, grid({"norm@1": [1.5], "norm@2": [1.4], "norm@4": [1.6]}))
    assert words.startswith("Take `clip.max=2`: 1.4000 over 1 seed. Certainty: none yet, since one seed has no")
    assert "seed=1,2,3`" in words


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
    jobs = grid({"none": [None, None], "norm@1": [1.49, 1.50], "norm@10": [2.0, None], "value@0.02": [1.7, 1.71]})
    sweep = write_sweep(tmp_path / "sweep", jobs)
    script.main([str(sweep)])
    printed = capsys.readouterr().out
    assert "Take clip=norm clip.max=1" in printed
    written = {path.name for path in sweep.glob("report*")}
    names = {f"report_{name}.png" for name in ("objective", "loss", "norms", "distribution", "clipped")}
    assert written == names | {"report.md", "report.html"}
    markdown = (sweep / "report.md").read_text()
    assert "```bash\npython train.py -m artificial arguments\n```" in markdown
    assert "| **norm** | **1** | **1.4950 ± 0.0071** | **2 of 2** |" in markdown
    assert set(re.findall(r"\]\((report_\w+\.png)\)", markdown)) == names
    page = (sweep / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?:|@import|url\(|<script|<link", page)
    assert "<code>clip=norm clip.max=1</code>" in page


def test_a_threshold_per_element_is_not_drawn_among_norms(tmp_path: Path) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    jobs = grid({"none": [None, None], "norm@1": [1.49, 1.50], "value@0.02": [1.4, 1.41]})  # the best is first
    table = aggregate.build([write_sweep(tmp_path, jobs)])
    norms, distribution, objective = (figures.Figure() for _ in range(3))
    plots._plot_norms(norms, table)
    drawn = {axes.get_title(): {line.get_label() for line in axes.lines} for axes in norms.axes if axes.get_title()}
    assert drawn["clip=norm clip.max=1"] == {"before", "after", "limit"}
    assert drawn["clip=value clip.max=0.02 (per element)"] == {"before", "after"}
    (legend,) = (axes.get_legend() for axes in norms.axes if axes.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == ["before", "after", "limit"]
    plots._plot_distribution(distribution, table)
    labels = distribution.axes[0].get_legend_handles_labels()[1]
    assert "thresholds of norm" in labels
    assert "thresholds of value" not in labels
    plots._plot_objective(objective, table)
    assert [text.get_text() for text in objective.axes[0].texts] == ["clip=none: diverged"]
    assert "clip=none: diverged" not in objective.axes[0].get_legend_handles_labels()[1]


def test_eight_policies_have_a_color_and_a_marker_each() -> None:
    assert len(set(plots.COLORS)) == len(set(plots.MARKERS)) == 8


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
    with pytest.raises(UserError, match=r'needs matplotlib: pip install -c constraints\.txt -e "\.\[report\]"'):
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
    assert "Take clip=norm clip.max=0.1: 1.5105" in text
    assert len(list(tmp_path.glob("report_*.png"))) == 5
