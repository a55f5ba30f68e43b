"""The plan of a sweep (sweep.json) and the results of its jobs (their status.json), read without torch."""

import json
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.printable import count_of, format_loss, printable
from runner.runs.files import write_atomically
from runner.runs.log import LOG_FILE, job_output_path
from runner.runs.status import actual_state, read_status
from runner.sweeps import slurm
from runner.tracking.tags import hparam_value

PLAN_FILE = "sweep.json"
ENDED = ("finished", "diverged", "pruned", "duplicate")  # the states that are results


@dataclass(frozen=True)
class Job:
    """One point of a sweep.

    config: the hash of its configuration. duplicate_of: the number of an earlier job with the same configuration.
    swept: the value of every swept key. values: the values of the keys that are not the same in all jobs.
    """

    number: int
    overrides: list[str]
    config: str
    duplicate_of: int | None = None
    swept: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def point(self) -> str:
        """The overrides of the swept keys, which distinguish the job from the others, quoted for a shell."""
        swept = [override for override in self.overrides if override.lstrip("+").partition("=")[0] in self.swept]
        return shlex.join(swept or self.overrides)


@dataclass
class Plan:
    """The content of sweep.json: what was requested, all jobs, and which of them were submitted to a cluster.

    arguments: those of the command line. config_name: the primary configuration file. method: as in `sweep.method`;
    the jobs of a search are added as they are proposed. common: the values that all jobs share. cluster: as in
    `sweep.slurm.cluster`. submitted: the cluster's job IDs by job number, as text.
    """

    arguments: list[str]
    jobs: list[Job]
    config_name: str = "train"
    method: str = "grid"
    common: dict[str, Any] = field(default_factory=dict)
    cluster: str | None = None
    submitted: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replaces sweep.json in the sweep's folder atomically."""
        write_atomically(folder / PLAN_FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_plan(folder: Path) -> Plan | None:
    """The plan of a sweep; None if sweep.json is missing or damaged."""
    try:
        content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
        return Plan(**(content | {"jobs": [Job(**job) for job in content["jobs"]]}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def swept_values(folder: Path) -> dict[str, Any] | None:
    """The values of the swept keys in the job with this folder; None if the folder is not that of a job.

    Where a key has numbers in some jobs and text in others, such as 2 and infinity, all its values are text:
    TensorBoard's server cannot sort a column of both.
    """
    plan = read_plan(folder.parent)
    job = next((job for job in plan.jobs if str(job.number) == folder.name), None) if plan else None
    if plan is None or job is None:
        return None
    return {key: _as_text(value) if _has_mixed_types(key, plan) else value for key, value in job.swept.items()}


def _has_mixed_types(key: str, plan: Plan) -> bool:
    """Whether a swept key has numbers in some jobs and text in others."""
    values = [value for job in plan.jobs if (value := job.swept.get(key)) is not None]
    return len({isinstance(hparam_value(value), str) for value in values}) > 1


def _as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Result:
    """The state of a job and, if it has ended, its result.

    state: that of status.json, or killed (status.json says running, but no process runs it), queued (pending at the
    cluster) or missing (no status).
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
        """Whether the job has a result and is not run again."""
        return self.state in ENDED


def read(folder: Path, plan: Plan) -> list[Result]:
    """The result of every job of a sweep."""
    return [read_one(folder / str(job.number), job, _scheduled(folder, plan, job)) for job in plan.jobs]


def state_of(folder: Path) -> str | None:
    """The actual state of a run (see `actual_state`), or of a job on a cluster."""
    plan = read_plan(folder.parent)
    job = next((job for job in plan.jobs if str(job.number) == folder.name), None) if plan else None
    scheduled = None if plan is None or job is None else _scheduled(folder.parent, plan, job)
    return actual_state(folder, scheduled)


def _scheduled(folder: Path, plan: Plan, job: Job) -> bool | None:
    """Whether a job is pending or running at the cluster; None if it was not submitted, or has a result."""
    if plan.cluster is None or (job_id := plan.submitted.get(str(job.number))) is None:
        return None
    if read_status(folder / str(job.number)).get("state") in ENDED:
        return None
    return slurm.is_pending_or_running(folder, plan.cluster, job_id)


def read_one(folder: Path, job: Job, scheduled: bool | None = None) -> Result:
    """The result of the job in this folder. scheduled: whether the cluster has the job, see `actual_state`."""
    state, status = actual_state(folder, scheduled), read_status(folder)
    if scheduled and state in (None, "interrupted", "killed", "failed", "rejected"):
        return Result(job, folder, "queued")
    if state is None:
        return Result(job, folder, "missing")
    if not status:  # the job holds its lock, but has not written its status yet
        return Result(job, folder, state)
    reason = None if state == "running" else status["reason"]
    if state == "killed" and reason is None:
        reason = f"no heartbeat since {status['updated']}"
    if state == "duplicate":
        reason = f"of job {status['duplicate_of']}"
    reason = None if reason is None else printable(str(reason), keep="")
    return Result(job, folder, state, status["step"], status["steps"], status["objective"], reason)


def table(results: Sequence[Result], reported: Collection[int] = ()) -> str:
    """A table of the jobs with their states and logs, the reasons of those that did not finish, and the counts.

    reported: the numbers of the jobs whose reasons have been printed already, and are left out.
    """
    rows = [("job", "state", "step", "objective", "point", "log")]
    for result in results:
        step = f"{result.step}/{result.steps}" if result.steps and result.state != "duplicate" else ""
        objective = "" if result.objective is None else format_loss(result.objective)
        state = f"{result.state} {result.reason}" if result.state == "duplicate" else result.state
        logs = (result.folder / LOG_FILE, job_output_path(result.folder))
        log = next((shell_path(path) for path in logs if path.is_file() and path.stat().st_size), "")
        rows.append((str(result.job.number), state, step, objective, result.job.point, log))
    reasons = [
        f"job {result.job.number} {result.state}: {result.reason}"
        for result in results
        if result.reason and result.state not in ("duplicate", "finished") and result.job.number not in reported
    ]
    counts = Counter(result.state for result in results)
    total = f"{count_of(len(results), 'job')}: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    return "\n".join([*columns(rows), *reasons, f"{total}; objective: the lowest validation loss of a job"])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Formats rows of cells as lines of text with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def relative_path(path: Path) -> str:
    """A path, relative to the working directory if it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def shell_path(path: Path) -> str:
    """`relative_path`, quoted for a shell where that is necessary."""
    return shlex.quote(relative_path(path))
