"""Artificial sweeps with a known conclusion: the files of a real sweep, or its table, without running it."""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.config import RunConfig
from runner.report.aggregate import Table, in_order
from runner.report.rows import Row
from runner.report.trials import Trial
from runner.sweeps.grid import config_hash, run_values
from runner.sweeps.results import Job, Plan, Result
from runner.tracking.metrics import MetricsWriter


@dataclass
class FakeJob:
    """An artificial job. limit: its clipping limit; None: none. clipped: the share of steps that are clipped."""

    overrides: Sequence[str]
    objective: float | None = None
    state: str = "finished"
    limit: float | None = None
    clipped: float = 0.25
    steps: int = 40
    extra: Mapping[str, float] = field(default_factory=dict)  # further tags of every step


def write_sweep(
    folder: Path,
    jobs: Sequence[FakeJob],
    swept: Sequence[str] = ("clip", "clip.max", "seed"),
    arguments: Sequence[str] = ("artificial", "arguments"),
    compose: Callable[..., RunConfig] | None = None,
) -> Path:
    """Writes sweep.json, and status.json and metrics.jsonl of every job that is not missing.

    compose: composes the configuration of overrides; by default that of this project.
    """
    flats = [values_of(job.overrides, compose) for job in jobs]
    common = {key: value for key, value in flats[0].items() if all(flat.get(key, ...) == value for flat in flats)}
    plan = []
    for number, (job, values) in enumerate(zip(jobs, flats, strict=True)):
        own = {key: value for key, value in values.items() if key not in common}
        chosen = {key: values.get(key, values.get(f"{key}.name")) for key in swept}
        plan.append(Job(number, list(job.overrides), config_hash(values), None, chosen, own))
        if job.state != "missing":
            write_run(folder / str(number), job, seed=number)
    Plan(list(arguments), plan, common=common).write(folder)
    return folder


def values_of(overrides: Sequence[str], compose: Callable[..., RunConfig] | None = None) -> dict[str, Any]:
    """A job's flattened configuration. Jobs that differ in their seed share one composition."""
    seeds = [int(each.removeprefix("seed=")) for each in overrides if each.startswith("seed=")]
    others = tuple(each for each in overrides if not each.startswith("seed="))
    return composed(others, compose) | {"seed": [1, *seeds][-1]}


@cache
def composed(overrides: tuple[str, ...], compose: Callable[..., RunConfig] | None = None) -> dict[str, Any]:
    if compose is None:
        from trainer.project import compose as of_this_project

        return run_values(of_this_project(*overrides))
    return run_values(compose(*overrides))


def write_run(folder: Path, job: FakeJob, seed: int = 0) -> None:
    """Writes a run's status and metrics: a decreasing loss, and log-normal gradient norms with median 1."""
    folder.mkdir(parents=True)
    last = job.steps if job.state == "finished" else job.steps // 4
    status = {"state": job.state, "step": last, "steps": job.steps, "objective": job.objective, "reason": None,
              "started": "2026-01-01T00:00:00+00:00", "updated": "2026-01-01T00:00:00+00:00", "pid": 1, "host": "there",
              "duplicate_of": None}  # fmt: skip
    if job.state in ("diverged", "failed"):
        status["reason"] = f"artificial at step {last}"
    (folder / "status.json").write_text(json.dumps(status))
    generator = random.Random(seed)
    metrics = MetricsWriter(folder)
    for step in range(1, last + 1):
        loss = 3.0 + 2.0 * math.exp(-step / last) if job.state == "finished" else 3.0 + step / 4
        before = math.exp(generator.gauss(0.0, 0.7))
        limit = math.inf if job.limit is None else job.limit
        values = {"loss/train": loss, "grad_norm/before": before, "grad_norm/after": min(before, limit),
                  "clip/limit": limit, "clip/scale": min(1.0, limit / before),
                  "clip/fraction": float(generator.random() < job.clipped), "lr": 0.1, "steps_per_second": 100.0,
                  "dropped": 0.0, **job.extra}  # fmt: skip
        metrics.write(step, values)
        if step % (job.steps // 4) == 0 and job.objective is not None:
            metrics.write(step, {"loss/val": job.objective + (job.steps - step) / job.steps})
    metrics.close()


NOISE, SEED_EFFECT = 0.01, 0.03  # standard deviations: of a run around the effect of its seed, and of that effect
Objectives = NDArray[np.float64]  # [configurations, seeds]
THERE = Path("there")


def table_of(objectives: Objectives, states: dict[tuple[int, int], str] | None = None) -> Table:
    """The table of a sweep over thresholds, in memory. states: of the runs that did not finish."""
    rows = []
    for number, found in enumerate(objectives):
        values = {"clip.name": "norm", "clip.max": 0.5 * 3.0**number}
        trials: list[Trial] = []
        for seed, objective in enumerate(found, start=1):
            state = (states or {}).get((number, seed - 1), "finished")
            result = Result(Job(len(trials), [], ""), THERE, state, objective=float(objective))
            trials.append(Trial(values | {"seed": seed}, result))
        rows.append(Row(values, trials))
    return Table(in_order(rows), ["clip.max"], 0, ["python train.py -m"])


def simulated(generator: np.random.Generator, effects: list[float], seeds: int) -> Objectives:
    """A sweep. effects: of the configurations, in standard deviations of the noise."""
    noise = generator.normal(0.0, NOISE, (len(effects), seeds))
    return 1.5 + generator.normal(0.0, SEED_EFFECT, seeds) + noise + NOISE * np.array(effects)[:, None]
