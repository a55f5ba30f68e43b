"""What a sweep planned and how every job ended: sweep.json and the status.json of each job, read without torch."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.runs.files import write_atomically
from runner.runs.log import LOG_FILE, job_output_path
from runner.runs.status import actual_state, read_status
from runner.sweeps import slurm

PLAN = "sweep.json"
ENDED = ("finished", "diverged", "pruned", "duplicate")  # the states that are results


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


@dataclass
class Plan:
    """A sweep as it was asked for, and what it has started: sweep.json.

    arguments: those of the command line. config_name: of the primary configuration. method: as in `sweep.method`; the
    jobs of a search are added as they are proposed. common: the values that all jobs share. submitted: the numbers of
    the jobs that were handed to a cluster, as text, with the cluster's own; cluster: its kind.
    """

    arguments: list[str]
    jobs: list[Job]
    config_name: str = "train"
    method: str = "grid"
    common: dict[str, Any] = field(default_factory=dict)
    cluster: str | None = None
    submitted: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replaces sweep.json in the sweep's folder as a whole."""
        write_atomically(folder / PLAN, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_plan(folder: Path) -> Plan | None:
    """The plan of a sweep, or None where there is none that can be read."""
    try:
        content = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return Plan(**(content | {"jobs": [Job(**job) for job in content["jobs"]]}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def swept(folder: Path) -> dict[str, Any] | None:
    """The swept keys and their values in the job whose folder this is; None for a folder that is no job's."""
    plan = read_plan(folder.parent)
    return next((job.swept for job in plan.jobs if str(job.number) == folder.name), None) if plan else None


@dataclass(frozen=True)
class Result:
    """How a job ended, or how far it is.

    state: one of status.json's, or killed (it says running, but no process is), queued (the cluster has it) and
    missing (nothing is known of it).
    """

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


def read(folder: Path, plan: Plan) -> list[Result]:
    """The result of every job of a sweep."""
    return [read_one(folder / str(job.number), job, _scheduled(folder, plan, job)) for job in plan.jobs]


def state_of(folder: Path) -> str | None:
    """The state of a run as it is, see `actual_state`, also of a job that a cluster runs."""
    plan = read_plan(folder.parent)
    job = next((job for job in plan.jobs if str(job.number) == folder.name), None) if plan else None
    scheduled = None if plan is None or job is None else _scheduled(folder.parent, plan, job)
    return actual_state(folder, scheduled)


def _scheduled(folder: Path, plan: Plan, job: Job) -> bool | None:
    """Whether the cluster still has a job; None for one that was never handed to a cluster, or has a result."""
    if plan.cluster is None or (number := plan.submitted.get(str(job.number))) is None:
        return None
    if read_status(folder / str(job.number)).get("state") in ENDED:
        return None
    return slurm.is_pending_or_running(folder, plan.cluster, number)


def read_one(folder: Path, job: Job, scheduled: bool | None = None) -> Result:
    """The result of the job in this folder. scheduled: what the cluster says of it, see `actual_state`."""
    state, status = actual_state(folder, scheduled), read_status(folder)
    if scheduled and state in (None, "interrupted", "killed", "failed", "rejected"):
        return Result(job, folder, "queued")
    if state is None:
        return Result(job, folder, "missing")
    if not status:  # it holds its lock, and has not written its status yet
        return Result(job, folder, state)
    reason = None if state == "running" else status["reason"]
    if state == "killed" and reason is None:
        reason = f"no sign of life since {status['updated']}"
    if state == "duplicate":
        reason = f"of job {status['duplicate_of']}"
    return Result(job, folder, state, status["step"], status["steps"], status["objective"], reason)


def table(results: Sequence[Result]) -> str:
    """How every job ended, and where its log is."""
    rows = [("job", "state", "step", "objective", "point", "log")]
    for result in results:
        step = f"{result.step}/{result.steps}" if result.steps and result.state != "duplicate" else ""
        objective = "" if result.objective is None else f"{result.objective:.4f}"
        state = f"{result.state} {result.reason}" if result.state == "duplicate" else result.state
        logs = (result.folder / LOG_FILE, job_output_path(result.folder))
        log = next((relative_path(path) for path in logs if path.is_file() and path.stat().st_size), "")
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


def relative_path(path: Path) -> str:
    """A path, relative to the working directory if it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def shell_path(path: Path) -> str:
    """`relative_path`, quoted for a shell where that is necessary."""
    return shlex.quote(relative_path(path))
