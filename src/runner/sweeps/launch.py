"""A planned sweep run through one of Hydra's launchers, every job in a process of its own."""

import logging
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from runner.compose import Composer
from runner.errors import UserError, typed
from runner.runs.run import STATUS, Run, update_latest_symlink
from runner.sweeps.parallel import visible_gpus
from runner.sweeps.results import ENDED, Job, Plan, Result, columns, mark, read, read_one, shown, table

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)
Task = Callable[[DictConfig], None]


@dataclass(frozen=True)
class Sweep:
    """A sweep whose every job was checked. master: the composed configuration that Hydra's launchers are given."""

    folder: Path
    plan: Plan
    composer: Composer[Any]
    master: DictConfig

    @property
    def results(self) -> list[Result]:
        return read(self.folder, self.plan.jobs)

    def to_run(self) -> list[Job]:
        """The jobs without a result that nobody is running; duplicates never run."""
        left = [result.job for result in self.results if not result.ended and result.state != "running"]
        return [job for job in left if job.duplicate_of is None]


def dry_run(sweep: Sweep) -> str:
    """The jobs, their folders, and which would not run."""
    states = {result.job.number: result.state for result in sweep.results}
    run = sweep.to_run()
    rows = [("job", "would run", "point", "folder")]
    for job in sweep.plan.jobs:
        kept = f"no, {states[job.number]}" if states[job.number] != "missing" else "yes"
        will = "yes" if job in run else f"no, duplicate of {job.duplicate_of}" if job.duplicate_of is not None else kept
        rows.append((str(job.number), will, job.point, shown(sweep.folder / str(job.number))))
    return "\n".join([*columns(rows), f"{len(sweep.plan.jobs)} jobs, of which {len(run)} would run"])


def launch(sweep: Sweep, task: Task) -> int:
    """Runs the jobs that have no result yet, prints how each ended, and returns the sweep's exit status.

    Raises UserError if another process is running this sweep.
    """
    with _locked(sweep.folder):
        return _run(sweep, task)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process runs a sweep; the lock ends with the process, however it ends."""
    with (folder / ".lock").open("w") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{shown(folder)}: another process is running this sweep") from None
        yield


def _run(sweep: Sweep, task: Task) -> int:
    _wait_for_orphans(sweep)
    jobs = sweep.to_run()
    for job in sweep.plan.jobs:
        if job.duplicate_of is not None:
            Run(sweep.folder / str(job.number), 0).mark_duplicate(job.duplicate_of)
    for result in sweep.results:
        if result.state == "running":
            log.info("job %d is running already, and left alone", result.job.number)
    for job in jobs:
        folder = sweep.folder / str(job.number)
        if (folder / STATUS).is_file() or (folder / ".hydra").is_dir():
            shutil.rmtree(folder)  # half a run helps nobody
    OmegaConf.save(sweep.master, sweep.folder / "multirun.yaml")
    update_latest_symlink(sweep.folder)
    code = _launch(sweep, jobs, task) if jobs else 0
    results = sweep.results
    again = shlex.join(["python", "train.py", f"sweep.resume={typed(shown(sweep.folder))}"])
    unfinished = [result for result in results if not result.ended]
    print(f"\n{table(results)}")
    print(f"sweep: {shown(sweep.folder)}" + (f"; what is left: {again}" if unfinished else ""), flush=True)
    return code or int(any(result.state not in (*ENDED, "running") for result in results))


def _wait_for_orphans(sweep: Sweep, seconds: float = 10.0) -> None:
    """A job whose sweep was just killed ends after its step; one on a cluster goes on, and is left alone."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(result.state == "running" for result in sweep.results):
        time.sleep(0.2)


def _launch(sweep: Sweep, jobs: Sequence[Job], task: Task) -> int:
    """Hands the jobs to Hydra's launcher; the exit status of a signal that ended the sweep, else 0."""
    # New interpreters, as of submitit and of the server that forks jobs, do not get the path to src otherwise.
    os.environ["PYTHONPATH"] = os.pathsep.join(each for each in sys.path if each)
    setup_globals()
    configure_log(sweep.master.hydra.hydra_logging, sweep.master.hydra.verbose)
    callbacks = Callbacks(sweep.master)
    callbacks.on_multirun_start(config=sweep.master, config_name=sweep.composer.name)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=sweep.composer.loader, callbacks=callbacks),
        task_function=_Isolated(task, sweep.composer.project.module),
        config=sweep.master,
    )
    for name in ("hydra", "hydra_plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the launchers list every job, and so does the table
    overrides = [[*job.overrides, f"hydra.sweep.subdir={job.number}"] for job in jobs]
    try:
        if choice(sweep.master) == "basic":
            for count, (job, each) in enumerate(zip(jobs, overrides, strict=True), start=1):
                print(f"\njob {job.number} ({count} of {len(jobs)}): {job.point}", flush=True)
                _complain(launcher.launch([each], initial_job_idx=job.number))  # by its own number
                if read_one(sweep.folder / str(job.number), job).state == "rejected":
                    print("the sweep stops here: what is wrong with one job is likely wrong with the next", flush=True)
                    break
        else:
            print(f"{len(jobs)} jobs through {choice(sweep.master)}", flush=True)
            signal.signal(signal.SIGTERM, _terminated)
            _complain(launcher.launch(overrides, initial_job_idx=0))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        print(f"the launcher gave up: {type(error).__name__}: {error}", file=sys.stderr)
    callbacks.on_multirun_end(config=sweep.master, config_name=sweep.composer.name)
    return 0


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # so that the launcher ends its workers, and the table is printed


def _complain(returns: Sequence[JobReturn]) -> None:
    """Shows what kept a job from its process; what happens in there is in its own log."""
    for each in returns:
        if each.status is JobStatus.FAILED:
            error = each._return_value
            print(f"a job could not be started: {type(error).__name__}: {error}", file=sys.stderr)


def choice(master: DictConfig) -> str:
    """The launcher's name."""
    return str(master.hydra.runtime.choices["hydra/launcher"])


class _Isolated:
    """A job as a launcher calls it: the task in a child process, so that its death is no other job's."""

    def __init__(self, task: Task, module: str):
        self._task, self._module = task, module  # module: what a job imports first, which brings torch

    def __call__(self, config: DictConfig) -> None:
        # As plain values: Hydra imports its plug-ins twice, and their classes cannot be pickled.
        hydra: Any = OmegaConf.to_container(HydraConfig.get(), resolve=True)
        folder = Path(HydraConfig.get().runtime.output_dir)
        # A server that has imported torch once forks every job: quick, and no job sees another's threads or CUDA.
        context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
        if hasattr(os, "fork"):
            context.set_forkserver_preload([self._module])
        if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
            multiprocessing.set_start_method(None, force=True)  # joblib's own, which no child of a worker would know
        child = context.Process(target=_child, args=(self._task, config, hydra))
        child.start()
        with _forwarded(child.pid) as asked:
            self._wait(child, worker=hydra["runtime"]["choices"]["hydra/launcher"] == "joblib")
        if child.exitcode < 0 or not (folder / STATUS).is_file():
            _record_death(folder, child.exitcode)
        if hydra["runtime"]["choices"]["hydra/launcher"] != "basic":
            result = read_one(folder, Job(int(folder.name), [], ""))
            print(
                f"job {folder.name}: {result.state}{'' if result.reason is None else f', {result.reason}'}", flush=True
            )
        if asked:
            sys.exit(128 + asked[0])

    def _wait(self, child: Any, worker: bool) -> None:
        """Until the job has ended. A worker whose sweep was killed ends its job, too, and itself."""
        sweep = os.getppid()
        while child.is_alive():
            child.join(1.0)
            if worker and os.getppid() != sweep:
                child.terminate()
                child.join()
                os._exit(1)


def _child(task: Task, config: DictConfig, hydra: dict[str, Any]) -> None:
    """In the child: Hydra's state, the log, one of several GPUs, and the task."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C goes to the sweep, which hands it on once
    setup_globals()
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": hydra})  # type: ignore[assignment]
    job: Any = HydraConfig.get()
    configure_log(job.job_logging, job.verbose)
    launcher = job.runtime.choices["hydra/launcher"]
    if launcher == "joblib" and len(gpus := visible_gpus()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[job.job.num % len(gpus)]
    if launcher != "basic":  # what several jobs say at once is read in their logs
        os.environ["TQDM_DISABLE"] = "1"
        root = logging.getLogger()
        root.handlers = [each for each in root.handlers if isinstance(each, logging.FileHandler)]
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        task(config)
    except UserError as error:  # what only building the run could tell
        log.error("error: %s", error)
        sys.exit(2)
    except Exception:
        log.exception("the job failed")
        sys.exit(1)


def _stop_with_parent() -> None:
    """A job whose sweep was killed finishes its step and ends, as by SIGTERM."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _forwarded(pid: int) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to a child; yields those that came."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def forward(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        os.kill(pid, number)

    earlier = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _record_death(folder: Path, code: int) -> None:
    """What a job that was killed could not write itself."""
    reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code} before it began"
    if not (folder / STATUS).is_file():
        Run(folder, 0)
    if read_one(folder, Job(0, [], "")).state not in ENDED:
        mark(folder, state="failed", reason=reason)
