"""`sweep.method=optuna`: the jobs are trials that Optuna proposes from the values and intervals of the command line.

The study is stored in the sweep's folder. A trial has the number of its job. The value of a trial that diverged is
infinity; a trial that the pruner ends early is pruned, with the last loss that it reported.
"""

import importlib.util
import itertools
import math
import shlex
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner.compose import Composer
from runner.errors import UserError, explain
from runner.printable import format_loss
from runner.runs.status import change_status
from runner.sweeps.grid import Points, make_job
from runner.sweeps.results import Job, Plan, Result, read
from runner.sweeps.space import Axis, is_passed_to_jobs, points
from runner.tracking import metrics
from runner.tracking.tags import VALIDATION_LOSS

if TYPE_CHECKING:
    from runner.sweeps.prepare import PreparedSweep

STUDY_NAME = "search"  # not the sweep's name, since its folder may be renamed
STUDY_FILE = "study.log"  # in the sweep's folder; optuna-dashboard opens it
READ_SECONDS = 0.5  # between two readings of a job's losses
STARTUP_TRIALS = 5  # the first trials, which are never pruned
MAX_CORNERS = 512  # of the search space, that are checked before the first trial


def plan(composer: Composer[Any], axes: Sequence[Axis], configurations: Points, arguments: Sequence[str]) -> Plan:
    """A search without jobs. Raises UserError for an invalid corner of its space, and if Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError('sweep.method=optuna needs Optuna: pip install -c constraints.txt -e ".[search]"')
    if not any(axis.swept for axis in axes):
        raise UserError("sweep.method=optuna: there is nothing to search; give a key an interval or several values, "
                        "such as 'clip.max=tag(log,interval(0.1,10))'")  # fmt: skip
    for corner in itertools.islice(points(axes), MAX_CORNERS):
        try:
            configurations.config(corner)
        except Exception as error:
            line = shlex.join(filter(is_passed_to_jobs, corner))
            raise UserError(f"{explain(error, composer.project, corner)} ({line})") from error
    return Plan(list(arguments), [], composer.name, "optuna")


class Search:
    """Proposes jobs until the budget is used up, and reports their losses and results to Optuna."""

    def __init__(self, sweep: "PreparedSweep"):
        import optuna
        import optuna.storages.journal

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._optuna, self._sweep = optuna, sweep
        self._settings, self._started = sweep.settings, time.monotonic()
        backend = optuna.storages.journal.JournalFileBackend(str(sweep.folder / STUDY_FILE))
        storage = optuna.storages.JournalStorage(backend)
        _, first = sweep.points.config(next(points(sweep.axes)))
        self._study = optuna.create_study(
            storage=storage,
            study_name=STUDY_NAME,
            # A resumed search has another seed; with the same one, its first trials would be proposed again.
            sampler=optuna.samplers.TPESampler(seed=(first.seed + len(sweep.plan.jobs)) % 2**32, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
            load_if_exists=True,
        )
        self._trials: dict[int, Any] = {}  # by job number: those that this process proposed
        self._next_read: dict[int, float] = {}  # by job number: when its losses are read again
        self._reported: dict[int, int] = {}  # by job number: the last step whose loss was reported
        self._unfinished = self._synchronize()
        self.total = self._settings.trials

    def _synchronize(self) -> list[Job]:
        """Reports to Optuna the results of an earlier process's jobs; returns the jobs without a result."""
        known = {result.job.number: result for result in read(self._sweep.folder, self._sweep.plan)}
        for trial in self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)):
            if (result := known.get(trial.number)) is None:  # the process ended before it wrote the job to sweep.json
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            elif result.ended:
                self.ended(result)
        return self._sweep.to_run()

    def next(self) -> Job | None:
        """A job of an earlier process without a result; else a new trial if the budget allows one."""
        if self._unfinished:
            return self._unfinished.pop(0)
        while len(self._study.trials) < self._settings.trials and self._has_time():
            job = self._propose()
            if job.duplicate_of is None:
                return job
        return None

    def _has_time(self) -> bool:
        """Whether `sweep.hours` have not passed yet."""
        hours = self._settings.hours
        return hours is None or time.monotonic() - self._started < 3600 * hours

    def _propose(self) -> Job:
        """A new trial as a job; a trial that repeats a job with a result gets that result at once."""
        sweep, trial = self._sweep, self._study.ask()
        overrides, config = sweep.points.config(sample(trial, sweep.axes, sweep.points))
        values = {result.job.number: value for result in sweep.results if (value := trial_value(result)) is not None}
        ended = [job for job in sweep.plan.jobs if job.number in values]
        job = make_job(trial.number, overrides, config, sweep.axes, ended)
        sweep.plan.jobs.append(job)
        sweep.plan.write(sweep.folder)
        if job.duplicate_of is None:
            self._trials[trial.number] = trial
        else:
            change_status(sweep.folder / str(job.number), state="duplicate", duplicate_of=job.duplicate_of)
            # Not the earlier trial's value in the study, which has none until the end of the job's process is seen.
            self._study.tell(trial.number, values[job.duplicate_of])
        return job

    def prune_reason(self, job: Job) -> str | None:
        """The reason to end a running job early, by the validation losses it has logged; None to let it run."""
        began = time.monotonic()
        if began < self._next_read.get(job.number, 0.0):
            return None
        reason = self._report(job)
        ended = time.monotonic()
        self._next_read[job.number] = ended + max(READ_SECONDS, 10 * (ended - began))  # a long file is read less often
        return reason

    def _report(self, job: Job) -> str | None:
        """Reports new losses to Optuna; returns a reason if the pruner decides to end the job."""
        if (trial := self._trials.get(job.number)) is None:  # a job that an earlier process proposed is not pruned
            return None
        reason = None
        try:
            scalars = metrics.read(self._sweep.folder / str(job.number), [VALIDATION_LOSS])
        except UserError:  # a damaged metrics.jsonl: the job itself may still finish
            return None
        for step, loss in scalars.get(VALIDATION_LOSS, []):
            if step <= self._reported.get(job.number, 0):
                continue
            self._reported[job.number] = step
            trial.report(loss, step)
            if reason is None and trial.should_prune():
                reason = f"the validation loss {loss:.4g} at step {step} is worse than that of most trials"
        return reason

    def ended(self, result: Result) -> None:
        """Reports a job's result to Optuna."""
        number, states = result.job.number, self._optuna.trial.TrialState
        self._report(result.job)
        if (value := trial_value(result)) is not None:
            self._study.tell(number, value)
        elif result.state == "pruned":
            self._study.tell(number, state=states.PRUNED)
        # A job in any other state has no result: `sweep.resume` runs it again, with the same number.

    def conclusion(self) -> str:
        """A line with the best job, its objective and its command."""
        finished = [result for result in self._sweep.results if result.state == "finished"]
        best = min(
            finished, key=lambda result: math.inf if result.objective is None else result.objective, default=None
        )
        if best is None or best.objective is None:
            return "\nno trial finished; try lower thresholds or a lower learning rate"
        command = shlex.join(["python", "train.py", *best.job.overrides])
        return f"\nbest: job {best.job.number} with {format_loss(best.objective)}: {command}"


def trial_value(result: Result) -> float | None:
    """The value of a job's trial: its objective, or infinity without a finite one; None for a job without a result."""
    if result.state not in ("finished", "diverged"):
        return None
    finite = result.state == "finished" and result.objective is not None and math.isfinite(result.objective)
    return result.objective if finite else math.inf


def sample(trial: Any, axes: Sequence[Axis], configurations: Points) -> list[str]:
    """The overrides of a trial.

    A key is sampled only if the chosen options have it, and as a separate parameter for each searched option of its
    group: a good threshold of one policy says nothing about that of another.
    """
    overrides = [axis.values[0] for axis in axes if not axis.swept]
    chosen: dict[str, str] = {}  # the sampled options by group
    for axis in axes:
        if axis.swept and configurations.is_option(axis):
            chosen[axis.key] = trial.suggest_categorical(axis.key, axis.values)
    overrides += chosen.values()
    for axis in axes:
        if axis.swept and not configurations.is_option(axis) and configurations.has_key(axis.key, overrides):
            group = chosen.get(axis.key.partition(".")[0])
            name = f"{axis.key} [{group}]" if group else axis.key
            overrides.append(_sampled_override(trial, axis, name, configurations))
    return overrides


def _sampled_override(trial: Any, axis: Axis, name: str, configurations: Points) -> str:
    if axis.interval is None:
        return str(trial.suggest_categorical(name, axis.values))
    low, high, log = axis.interval.low, axis.interval.high, axis.interval.log
    if configurations.is_integer(axis.key):
        return f"{axis.key}={trial.suggest_int(name, math.ceil(low), math.floor(high), log=log)}"
    return f"{axis.key}={trial.suggest_float(name, low, high, log=log)}"
