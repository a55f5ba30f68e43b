"""What a sweep planned and what became of every job: sweep.json and the status.json of each, read without torch."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.runs.files import write_atomically
from runner.runs.lock import alive
from runner.runs.run import STATUS, read_status

PLAN = "sweep.json"
LOG = "train.log"
ENDED = ("finished", "diverged", "pruned", "duplicate")  # a result; every other state is run again by a resume


@dataclass(frozen=True)
class Job:
    """One point of the grid.

    config: the hash of its configuration. duplicate_of: the number of an earlier job with an equal one.
    swept: the value of every swept key. values: those of its keys that are not the same in all jobs.
    """

    number: int
    overrides: list[str]
    config: str
    duplicate_of: int | None = None
    swept: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def point(self) -> str:
        """What tells it from the other jobs, as it stood on the command line."""
        own = [each for each in self.overrides if each.lstrip("+").partition("=")[0] in self.swept]
        return " ".join(own or self.overrides)


@dataclass(frozen=True)
class Plan:
    """A sweep as it was asked for. flags: which configuration folder and file. common: values shared by all jobs."""

    arguments: list[str]
    jobs: list[Job]
    flags: dict[str, str | None] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / PLAN, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_plan(folder: Path) -> Plan | None:
    """The plan of a sweep, or None where there is none that can be read."""
    try:
        content = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return Plan(**(content | {"jobs": [Job(**job) for job in content["jobs"]]}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclass(frozen=True)
class Result:
    """How a job ended, or where it is. state: as in status.json; also missing (no folder) and killed (no heartbeat)."""

    job: Job
    folder: Path
    state: str
    step: int = 0
    steps: int = 0
    objective: float | None = None
    reason: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def read(folder: Path, jobs: Sequence[Job]) -> list[Result]:
    """The result of every job of a sweep."""
    return [read_one(folder / str(job.number), job) for job in jobs]


def read_one(folder: Path, job: Job) -> Result:
    """The result of the job in this folder; one that says nothing, or not all, is missing and will be run again."""
    status = read_status(folder)
    if not {"state", "reason", "step", "steps", "objective", "updated", "pid", "duplicate_of"} <= status.keys():
        return Result(job, folder, "missing")
    state, reason = status["state"], status["reason"]
    if state == "running" and not alive(status):
        state, reason = "killed", f"no sign of life since {status['updated']}"
    if state == "duplicate":
        reason = f"of job {status['duplicate_of']}"
    return Result(job, folder, state, status["step"], status["steps"], status["objective"], reason)


def mark(folder: Path, **changes: Any) -> None:
    """Changes a job's status from outside, where the job itself no longer can."""
    path = folder / STATUS
    status = json.loads(path.read_text(encoding="utf-8"))
    write_atomically(path, (json.dumps(status | changes, indent=1) + "\n").encode())


def table(results: Sequence[Result]) -> str:
    """How every job ended, and where its log is."""
    rows = [("job", "state", "step", "objective", "point", "log")]
    for result in results:
        step = f"{result.step}/{result.steps}" if result.steps and result.state != "duplicate" else ""
        objective = "" if result.objective is None else f"{result.objective:.4f}"
        state = f"{result.state} {result.reason}" if result.state == "duplicate" else result.state
        log = shown(result.folder / LOG) if (result.folder / LOG).is_file() else ""
        rows.append((str(result.job.number), state, step, objective, result.job.point, log))
    reasons = [
        f"job {result.job.number} {result.state}: {result.reason}"
        for result in results
        if result.reason and result.state not in ("duplicate", "finished")
    ]
    counts = Counter(result.state for result in results)
    total = f"{len(results)} jobs: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    return "\n".join([*columns(rows), *reasons, total])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with their columns below each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def shown(path: Path) -> str:
    """A path as short as the working directory allows."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
