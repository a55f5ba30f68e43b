"""Jobs of a sweep on a Slurm cluster, through the library submitit (extra `slurm`)."""

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.config import Slurm
from runner.errors import EXIT_FAILURE, UserError
from runner.runs.log import job_output_path
from runner.runs.status import process_exists, read_status

SUBMITIT_FOLDER = ".submitit"  # in the sweep's folder: what submitit writes
APPEND_TO_FILE = 'exec "$@" >> "$0" 2>&1'  # for `sh -c`: runs the arguments after $0, and appends their output to $0


def require(cluster: str) -> None:
    """Raises UserError if submitit is not installed, or the cluster is not reachable from here."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError('sweep.launcher=slurm needs submitit: pip install -c constraints.txt -e ".[slurm]"')
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "sweep.launcher=slurm: this machine has no sbatch; sweep.slurm.cluster=local runs the jobs here"
        )


class SlurmLauncher:
    """Submits jobs through submitit. sweep: the folder of the sweep."""

    def __init__(self, sweep: Path, settings: Slurm):
        import submitit

        self._settings = settings
        self._executor = submitit.AutoExecutor(sweep / SUBMITIT_FOLDER, cluster=settings.cluster)
        self._executor.update_parameters(
            name=sweep.name,
            timeout_min=settings.minutes,
            cpus_per_task=settings.cpus,
            gpus_per_node=settings.gpus,
            mem_gb=settings.memory_gb,
            slurm_partition=settings.partition,
            slurm_account=settings.account,
            slurm_qos=settings.qos,
            slurm_constraint=settings.constraint,
        )

    def start(self, folder: Path, command: Sequence[str]) -> "SlurmJob":
        """Submits the command of the job with this folder."""
        # With cluster=local, Ctrl-C would reach submitit's own process, which would kill its job.
        earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            job = self._executor.submit(
                subprocess.call, ["sh", "-c", APPEND_TO_FILE, str(job_output_path(folder)), *command]
            )
        finally:
            signal.signal(signal.SIGINT, earlier)
        return SlurmJob(folder, job, self._settings.cluster)


class SlurmJob:
    """A submitted job. id: its job ID at the cluster."""

    def __init__(self, folder: Path, job: Any, cluster: str):
        self._folder, self._job, self._cluster = folder, job, cluster
        self.id = str(job.job_id)

    def poll(self) -> int | None:
        """The exit status of the command, -9 if the cluster ended it; None while it is pending or runs."""
        from submitit.core.utils import UncompletedJobError

        if not self._job.done():
            return None
        error = self._job.exception()
        if error is None:
            return int(self._job.result())
        return -signal.SIGKILL if isinstance(error, UncompletedJobError) else EXIT_FAILURE

    def send(self, number: int) -> bool:
        """Asks the job to save and end by SIGTERM, or kills it; a pending job is cancelled.

        False if the job has not written its process ID yet.
        """
        if self._cluster == "slurm":
            # Without --batch only job steps are signaled; there submitit ignores SIGTERM, but not SIGINT.
            name = "KILL" if number == signal.SIGKILL else "TERM"
            subprocess.run(["scancel", f"--signal={name}", self.id], check=False)
            subprocess.run(["scancel", "--state=PENDING", self.id], check=False)
            return True
        if (status := read_status(self._folder)).get("state") != "running":
            return False
        with suppress(ProcessLookupError):
            os.kill(status["pid"], number)
        return True


def is_pending_or_running(sweep: Path, cluster: str, number: str) -> bool | None:
    """Whether a submitted job has not ended yet; None if the cluster cannot be asked. number: its job ID."""
    if importlib.util.find_spec("submitit") is None or (cluster == "slurm" and shutil.which("sacct") is None):
        return None
    import submitit

    if cluster == "slurm":
        return not submitit.SlurmJob(sweep / SUBMITIT_FOLDER, number).done(force_check=True)
    ended = submitit.LocalJob(sweep / SUBMITIT_FOLDER, number).paths.result_pickle.exists()
    return not ended and process_exists(int(number))
