"""Jobs of a sweep as child processes on this machine."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runner.runs.log import job_output_path


class LocalLauncher:
    """Starts jobs, each with a share of the CPU cores and one of several GPUs.

    concurrent: how many jobs run at the same time.
    """

    def __init__(self, concurrent: int):
        self._concurrent = concurrent
        self._gpus = visible_gpus()
        self._jobs: dict[str, list[LocalJob]] = {gpu: [] for gpu in self._gpus}

    def start(self, folder: Path, command: Sequence[str]) -> "LocalJob":
        """Starts the command of the job with this folder; its output is appended to `<folder>.log`."""
        environment = dict(os.environ)
        if self._concurrent > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self._concurrent)))
        gpu = self._free_gpu()
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with job_output_path(folder).open("ab") as output:
            # In a session of its own: Ctrl-C signals only the sweep, which forwards it once.
            job = LocalJob(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                 env=environment, start_new_session=True)
            )  # fmt: skip
        if gpu is not None:
            self._jobs[gpu].append(job)
        return job

    def _free_gpu(self) -> str | None:
        """The GPU with the fewest running jobs; None with fewer than two GPUs, or one job at a time."""
        if len(self._gpus) < 2 or self._concurrent < 2:
            return None
        return min(self._gpus, key=lambda gpu: sum(job.poll() is None for job in self._jobs[gpu]))


class LocalJob:
    """A job as a child process."""

    id = None

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self._process.poll()

    def send(self, number: int) -> bool:
        """Sends a signal to the process; SIGKILL also to its child processes."""
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            elif self._process.poll() is None:
                self._process.send_signal(number)
        return True


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs visible to CUDA, by the names that CUDA_VISIBLE_DEVICES takes."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(driver.iterdir())))] if driver.is_dir() else []
