"""A search over policies and thresholds: Optuna proposes, Hydra composes, the loop trains, bad trials end early."""

import importlib.util
import itertools
import json
import logging
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override

from gradclip.policies import Policy
from runner.compose import Composer
from runner.config import RunConfig, resolve_paths
from runner.errors import UserError, explain, typed
from runner.runs.run import Pruned, Run, save, update_latest_symlink
from runner.sweeps.grid import run_values
from runner.sweeps.results import LOG, shown

if sys.platform != "win32":
    import fcntl

POLICIES = ("norm", "value", "autoclip", "zclip")  # searched where the command line names none
REACH = 30.0  # a threshold is searched from its default divided by this to its default times this
CORNERS = 512  # combinations that are composed before the first trial


@dataclass(frozen=True)
class Space:
    """What is drawn from. fixed: overrides of every trial. intervals: their ends, and whether on a log scale."""

    fixed: list[str]
    choices: dict[str, list[str]]
    intervals: dict[str, tuple[float, float, bool]]
    defaults: dict[str, float] = field(default_factory=dict)  # of each policy's clip.max
    whole: set[str] = field(default_factory=set)  # the intervals of whole numbers

    def threshold(self, policy: str) -> float | None:
        """The default of `clip.max` where it is the policy's own threshold, and is searched."""
        schema = Policy.options.get(policy)
        given = any(each.lstrip("+").startswith("clip.max=") for each in self.fixed)
        if given or "clip.max" in {**self.choices, **self.intervals} or schema is None or schema.caps:
            return None
        return self.defaults.get(policy)


def space(composer: Composer[Any], arguments: Sequence[str]) -> Space:
    """What the arguments leave open: `clip=norm,value`, `optimizer.lr=tag(log,interval(0.1,10))`. Raises UserError."""
    fixed: list[str] = []
    choices: dict[str, list[str]] = {}
    intervals: dict[str, tuple[float, float, bool]] = {}
    for override in composer.parse(composer.quoted(list(arguments))):
        key, value = str(override.key_or_group), override.value()
        if key == "resume" or key.startswith(("hydra", "sweep.")):
            raise UserError(f"{override.input_line}: a search makes its runs and their folders itself; leave this out")
        if isinstance(value, IntervalSweep):
            intervals[key] = _interval(override, value)
        elif override.is_sweep_override():
            choices[key] = [_unquoted(str(each)) for each in override.sweep_string_iterator()]
        else:
            fixed.append(str(override.input_line))
    if "clip" not in choices and not any(each.startswith("clip=") for each in fixed):
        choices = {"clip": [name for name in POLICIES if name in composer.options("clip")], **choices}
    return Space(fixed, choices, intervals)


def _unquoted(value: str) -> str:
    """Without quotes that it can do without, such as those around the option none."""
    return inner if typed(inner := value.strip("'")) == inner else value


def _interval(override: Override, value: IntervalSweep) -> tuple[float, float, bool]:
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        raise UserError(
            f"{override.input_line}: an interval goes up" + (", and on a log scale from above 0" if log else "")
        )
    return low, high, log


def check(composer: Composer[Any], found: Space) -> None:
    """Composes the corners of the space, so that no trial is refused. Raises UserError for the first that is wrong."""
    policies = found.choices.get("clip", [_fixed_policy(found)])
    for policy in policies:
        config = _composed(composer, [*found.fixed, f"clip={policy}"] if "clip" in found.choices else found.fixed)
        if config.clip.max is not None:
            found.defaults[policy] = config.clip.max
        values = run_values(config)
        found.whole.update(key for key in found.intervals if type(values.get(key)) is int)
    ends = {
        key: [str(int(end) if key in found.whole else end) for end in found.intervals[key][:2]]
        for key in found.intervals
    }
    sides = [[f"{key}={value}" for value in values] for key, values in (found.choices | ends).items()]
    for corner in itertools.islice(itertools.product(*sides), CORNERS):
        _composed(composer, [*found.fixed, *corner])


def _fixed_policy(found: Space) -> str:
    named = [each.partition("=")[2].strip("'") for each in found.fixed if each.startswith("clip=")]
    return named[-1] if named else "norm"


def _composed(composer: Composer[Any], overrides: Sequence[str]) -> RunConfig:
    try:
        config: RunConfig = composer.checked(overrides)
    except Exception as error:
        raise UserError(f"{explain(error, composer.project, overrides)} ({' '.join(overrides)})") from error
    return config


def overrides_of(found: Space, trial: Any) -> list[str]:
    """What a trial of Optuna's proposes, as overrides."""
    chosen = {key: trial.suggest_categorical(key, values) for key, values in found.choices.items()}
    for key, (low, high, log) in found.intervals.items():
        if key in found.whole:
            chosen[key] = trial.suggest_int(key, int(low), int(high), log=log)
        else:
            chosen[key] = trial.suggest_float(key, low, high, log=log)
    policy = chosen.get("clip", _fixed_policy(found))
    if (default := found.threshold(policy)) is not None:
        # A name of its own for each policy: an element's threshold says nothing about a norm's.
        chosen["clip.max"] = trial.suggest_float(f"clip.max ({policy})", default / REACH, default * REACH, log=True)
    return [*found.fixed, *(f"{key}={value}" for key, value in chosen.items())]


class TrialRun(Run):
    """A run that tells Optuna every evaluation, and ends when its pruner has seen enough."""

    def __init__(self, folder: Path, steps: int, trial: Any, swept: dict[str, Any] | None = None):
        super().__init__(folder, steps, swept=swept)
        self._trial = trial

    def on_evaluation(self, step: int, loss: float) -> None:
        self._trial.report(loss, step)
        if step < self.status["steps"] and self._trial.should_prune():
            raise Pruned(f"the validation loss {loss:.4g} at step {step} is worse than that of other trials")


@dataclass(frozen=True)
class Search:
    """A study: where its runs are kept, what it draws from, how many trials it is to have in all."""

    folder: Path
    storage: str
    trials: int
    space: Space
    composer: Composer[Any]
    seed: int | None = None


def run(search: Search) -> str:
    """Runs trials until the study has as many as asked for, from however many processes; returns what to print.

    A trial that diverged counts as pruned. One whose process was killed is replaced.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of a user's mistake with a traceback
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    search.folder.mkdir(parents=True, exist_ok=True)
    with _alone(search.folder):
        study = _study(search)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    update_latest_symlink(search.folder)
    if len(study.get_trials(deepcopy=False, states=ended)) < search.trials:
        study.optimize(
            lambda trial: _trial(search, trial),
            callbacks=[optuna.study.MaxTrialsCallback(search.trials, states=ended)],
        )
    return conclusion(search, study)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits for its turn: two processes that make the tables of a new study at once fail at each other's."""
    with (folder / ".lock").open("w") as file:
        if sys.platform != "win32":
            with suppress(OSError):  # a disk without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _study(search: Search) -> Any:
    import optuna
    import sqlalchemy

    try:
        storage = optuna.storages.RDBStorage(search.storage, heartbeat_interval=30, grace_period=120)
    except sqlalchemy.exc.SQLAlchemyError as error:
        why = str(getattr(error, "orig", error)).partition("\n")[0]
        raise UserError(f"--storage={search.storage}: not the storage of a study ({why})") from error
    sampler = optuna.samplers.TPESampler(seed=search.seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    study = optuna.create_study(
        storage=storage, study_name=search.folder.name, sampler=sampler, pruner=pruner, load_if_exists=True
    )
    asked = json.dumps([search.space.fixed, search.space.choices, search.space.intervals])
    if (before := study.user_attrs.get("space")) not in (None, asked):
        raise UserError(f"{search.folder}: this study searches something else, {before}; give it another --name")
    study.set_user_attr("space", asked)
    return study


def _trial(search: Search, trial: Any) -> float:
    """One trial: composed, checked, trained in a folder of its own."""
    import optuna

    overrides = overrides_of(search.space, trial)
    config = _composed(search.composer, overrides)
    resolve_paths(config, Path.cwd())
    folder = search.folder / str(trial.number)
    trial.set_user_attr("folder", str(folder))
    trial.set_user_attr("overrides", overrides)
    if (earlier := _same(trial, overrides)) is not None:
        TrialRun(folder, config.steps, trial).mark_duplicate(earlier.number)
        print(f"trial {trial.number}: the same as {earlier.number}, and not run again", flush=True)
        return float(earlier.value)
    own = _searched(search.space, config, overrides)
    record = TrialRun(folder, config.steps, trial, own)
    with _log(folder), record.recorded():
        save(config, folder)
        search.composer.project.execute(config, record)
    outcome, status = record.outcome(), record.status
    objective = "" if status["objective"] is None else f", objective {status['objective']:.4f}"
    print(f"trial {trial.number}: {outcome.state}{objective}: {' '.join(overrides)}", flush=True)
    if outcome.interrupted:
        raise KeyboardInterrupt(record.stop)
    if outcome.state != "finished" or status["objective"] is None:
        raise optuna.TrialPruned(status["reason"])
    return float(status["objective"])


def _same(trial: Any, overrides: Sequence[str]) -> Any:
    """A finished trial that ran just this; a policy without a threshold is proposed again and again."""
    finished = (each for each in trial.study.get_trials(deepcopy=False) if each.state.name == "COMPLETE")
    return next((each for each in finished if each.user_attrs.get("overrides") == list(overrides)), None)


def _searched(found: Space, config: RunConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The searched keys and their values, for TensorBoard's HParams."""
    values, keys = run_values(config), [*found.choices, *found.intervals, "clip.max"]
    given = dict(each.split("=", 1) for each in overrides)
    return {key: values.get(key, values.get(f"{key}.name", given.get(key))) for key in dict.fromkeys(keys)}


@contextmanager
def _log(folder: Path) -> Iterator[None]:
    """What a run says goes into its own log; the screen shows a line a trial."""
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def conclusion(search: Search, study: Any) -> str:
    """The best trial, as a command, and where the rest is."""
    states = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    lines = [f"study {search.folder.name}: {states.total()} trials: {counts}"]
    try:
        best = study.best_trial
        command = shlex.join(["python", "train.py", *best.user_attrs["overrides"]])
        lines.append(f"best, {best.value:.4f} in trial {best.number}: {command}")
    except ValueError:
        lines.append("no trial finished: try lower thresholds, or a lower optimizer.lr")
    return "\n".join([*lines, f"report: python scripts/report.py {shown(search.folder)}"])


def need_optuna() -> None:
    """Raises UserError where it is absent."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError('a search needs optuna: pip install -c constraints.txt -e ".[tune]"')
