"""The commands that a report proposes for sweeps of this project, with its optimizers and policies."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.report import aggregate, following
from runner.report.conclusion import CODE, conclusion
from scripts.report import accepts
from tests.sweeps import FakeJob, write_sweep
from tests.trainer.options import require_options

RESUME = "python train.py sweep.resume=HERE"


def after_divergence(
    folder: Path, overrides: list[list[str]], swept: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """The conclusion of a sweep in which every run diverged."""
    jobs = [FakeJob([*each, *arguments, f"seed={seed}"], None, "diverged") for each in overrides for seed in (1, 2)]
    sweep = write_sweep(folder, jobs, (*swept, "seed"), arguments=[*arguments, "seed=1,2"])
    return conclusion(aggregate.build([sweep]), RESUME)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_an_optimizer_that_normalizes_diverged(optimizer: str, tmp_path: Path) -> None:
    """Another threshold hardly changes its step: its rate is lowered, and the lowest threshold is kept."""
    require_options(f"optimizer={optimizer}", "model=mlp", "data=digits")
    arguments = ["model=mlp", "data=digits", f"optimizer={optimizer}", "optimizer.lr=3"]
    grid = [["clip=none"], ["clip=norm", "clip.max=2"], ["clip=norm", "clip.max=1"]]
    *_, last = after_divergence(tmp_path, grid, ("clip", "clip.max"), arguments)
    assert last == (
        "Next, learning rates below 3, the lowest tried: `python train.py -m model=mlp data=digits "
        f"optimizer={optimizer} clip=norm clip.max=1 optimizer.lr=0.03,0.3 seed=1,2`"
    )


def test_of_two_optimizers_that_diverged_the_threshold_of_sgd_is_lowered(tmp_path: Path) -> None:
    require_options("optimizer=sgd", "optimizer=adam")
    grid = [["optimizer=adam", "optimizer.lr=3", "clip.max=1"], ["optimizer=sgd", "optimizer.lr=3", "clip.max=1"]]
    *_, last = after_divergence(tmp_path / "both", grid, ("optimizer",), ["optimizer.lr=3", "clip.max=1"])
    assert "thresholds below 1, " in last
    assert "optimizer=sgd" in last
    *_, last = after_divergence(tmp_path / "adam", grid[:1], (), ["optimizer=adam", "optimizer.lr=3", "clip.max=1"])
    assert last.endswith(" optimizer=adam clip.max=1 optimizer.lr=0.03,0.3 seed=1,2`")


def test_lower_thresholds_are_tried_at_the_lowest_rate(tmp_path: Path) -> None:
    require_options("optimizer=sgd")
    grid = [[f"optimizer.lr={lr}", f"clip.max={limit}"] for lr in (30, 3) for limit in (100, 1000)]
    *_, last = after_divergence(tmp_path, grid, ("optimizer.lr", "clip.max"), [])
    assert last == (
        "Next, thresholds below 100, the lowest tried: `python train.py -m optimizer.lr=3 clip.max=1,10 seed=1,2`"
    )


def test_a_shared_override_that_a_policy_lacks_is_left_out(tmp_path: Path) -> None:
    """`clip=none,norm clip.max=10` is a sweep, and `clip=none clip.max=10` is no run."""
    jobs = [FakeJob([f"optimizer.lr={lr}", *clip, f"seed={seed}"], 1 + lr + 0.1 * seed + worse)
            for lr in (1, 2) for clip, worse in ((["clip=none"], 0.0), (["clip=norm", "clip.max=10"], 1.0))
            for seed in (1, 2, 3)]  # fmt: skip
    arguments = ["optimizer.lr=1,2", "clip=none,norm", "clip.max=10", "clip.nonfinite=error", "seed=1,2,3",
                 "clip@clip.links.whole=zclip"]  # fmt: skip
    sweep = write_sweep(tmp_path, jobs, ("optimizer.lr", "clip", "seed"), arguments=arguments)
    table = aggregate.build([sweep])
    table.accepts = accepts
    (edge,) = (line for line in conclusion(table, RESUME) if "to extend it" in line)
    assert "clip.max" not in edge
    assert edge.endswith(": `python train.py -m clip.nonfinite=error clip=none optimizer.lr=0.25,0.5,1 seed=1,2,3`")
    words = shlex.split(CODE.findall(edge)[-1][1])
    for lr in ("0.25", "0.5", "1"):
        assert accepts([*words[3:5], f"optimizer.lr={lr}"])
    assert not accepts(["clip=none", "clip.max=10"])
    both = next(iter(following.repeated(table, table.rows, 5)))
    assert "clip.max=10" in both


def test_the_links_of_a_chain_are_chosen_as_options(tmp_path: Path) -> None:
    """Where they differ; those of clip=chain itself follow from it. Every printed command is accepted."""
    whole = "clip@clip.links.whole"
    for name, grid, swept in (
        ("options", [["clip=none"], ["clip=chain"]], ("clip",)),
        ("links", [["clip=chain", f"{whole}={link}"] for link in ("norm", "zclip")], (whole,)),
    ):
        jobs = [FakeJob([*each, f"seed={seed}"], 1.0) for each in grid for seed in (1, 2)]
        table = aggregate.build([write_sweep(tmp_path / name, jobs, (*swept, "seed"), arguments=["seed=1,2"])])
        overrides = [table.overrides([row]) for row in table.rows]
        assert overrides == ([["clip=none"], ["clip=chain"]] if name == "options" else [
            [f"{whole}=norm"], [f"{whole}=zclip"]
        ])  # fmt: skip
    assert accepts(["clip=chain", f"{whole}=zclip"])
    assert not accepts(["clip=chain", "clip.links.whole=zclip"])
