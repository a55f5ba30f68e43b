"""The command line: what is checked before a run, and the run itself as Hydra calls it."""

import logging
import os
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.cli import resume, single
from runner.cli.help import help_text
from runner.cli.single import Single
from runner.compose import Composer, checked, load, register, without_hydra
from runner.config import Project, RunConfig, resolve_paths
from runner.errors import FAILED, UserError, exit_with_error, one_line, typed
from runner.runs import lock
from runner.runs.files import is_unwritable
from runner.runs.run import SAVED, STATUS, Run, entries, remove_new_entries, save
from runner.sweeps import grid as sweep
from runner.sweeps import launch, parallel
from runner.sweeps.results import PLAN, read_plan

FLAGS = ("config_path", "config_name", "config_dir")  # of Hydra's own, which a resumed sweep needs again

log = logging.getLogger(__name__)
_resumed_settings: dict[Path, RunConfig] = {}  # what a resumed run was checked with, for this process to run
_entries_before: dict[Path, set[str] | None] = {}  # of a new run's folder, before Hydra makes it; None: there was none


def preflight(project: Project[Any], argv: list[str] | None = None) -> launch.Sweep | Single | None:
    """Ends the program in one line if anything is wrong with the arguments, before any folder is made.

    Answers `--help` and `sweep.dry_run=true` by itself. Returns a sweep, every point of which was checked, or a
    checked run; for what is left to Hydra nothing, and quoted options in `argv` (sys.argv by default) for it to read.
    """
    if argv is None:
        argv = sys.argv
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the run itself listens, there is nothing to save
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 loses no line
    args = _with_one_line_errors(get_args_parser()).parse_intermixed_args(argv[1:])
    register(project)
    parallel.register()
    if args.hydra_help or args.shell_completion:
        return None
    with one_line(project, args.overrides):
        _check_flags(args)
        composer = _composer(project, args)
        JobRuntime.instance().set("name", task := Path(argv[0]).stem)  # as hydra.main does, and the log's name
        overrides = composer.quoted(args.overrides)
        # Hydra's own parser takes no flag after an override that follows another flag.
        argv[1:] = [argument for argument in argv[1:] if argument not in args.overrides] + overrides
        parsed = composer.parse(overrides)
        if (run := resume.asked(parsed, project)) is not None and not args.help:
            argv[1:] = _resume_arguments(args, project, run, parsed)
            return None
        config = composer.compose(overrides, multirun=args.multirun)
        if args.help:
            _answer(help_text(composer, config))
        if not isinstance(config.sweep, DictConfig):
            checked(config, project, overrides)  # an interpolation in its place: refused with its name
        if config.sweep.resume is not None:
            return _resumed(args, project, config.sweep.resume, overrides)
        if args.multirun or config.hydra.mode == RunMode.MULTIRUN:
            return _planned(args, composer, overrides)
        if config.sweep.dry_run:
            raise UserError("sweep.dry_run=true: there is no sweep; add -m")
        settings = checked(config, project, overrides)
        if settings.resume is not None:
            raise UserError(f"resume={settings.resume}: belongs on the command line, and in no file")
        if args.cfg:
            _show(args, config)
        elif not args.info:
            for file in (STATUS, SAVED):
                _check_folder("hydra.run.dir", config.hydra.run.dir, file, "a run")
            folder = Path(config.hydra.run.dir).absolute()
            _entries_before[folder] = entries(folder)
            return Single(composer, config, overrides, task)
    return None


def start(project: Project[Any], planned: launch.Sweep | Single, main: Callable[..., object]) -> None:
    """Starts a checked run, with the function that `@hydra.main` decorates; or runs a checked sweep's open jobs."""
    if isinstance(planned, Single):
        single.start(planned, main)
    else:
        with one_line(project):
            sys.exit(launch.launch(planned, partial(run, project)))


def run(project: Project[Any], config: DictConfig) -> None:
    """One run, one job of a sweep, or a resumed run: from the composed configuration to an exit status."""
    logging.raiseExceptions = False  # a closed pipe, as in `… | head`, ends nothing
    _answer_write_errors_in_one_line()
    job = HydraConfig.get()
    in_sweep = job.mode == RunMode.MULTIRUN
    resumed = config.resume is not None
    folder = Path(config.resume if resumed else job.runtime.output_dir)
    if resumed:
        settings = _resumed_settings.get(folder) or load(folder, project)
    else:
        settings = checked(config, project)
        resolve_paths(settings, Path(job.runtime.cwd))
    record = None
    try:
        record = _open(settings, folder, resumed=resumed, in_sweep=in_sweep)
        with record.recorded():
            project.execute(settings, record)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except UserError as error:  # what only building the run could tell, or another process has the folder
        if in_sweep:
            raise
        if record is not None and not record.begun and folder in _entries_before:
            remove_new_entries(folder, _entries_before[folder])
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        exit_with_error(str(error))
    except OSError as error:
        if in_sweep or not is_unwritable(error):
            raise
        exit_with_error(f"{error.filename}: {error.strerror}; the run can go on: resume={folder}", FAILED)
    if code := record.outcome().code:
        sys.exit(code)


def _open(settings: RunConfig, folder: Path, *, resumed: bool, in_sweep: bool) -> Run:
    """The record of a run whose folder this process holds. Raises UserError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock.hold(folder)
    if not resumed:
        save(settings, folder)  # first of all: with it a run can be resumed, wherever it is killed
    alone = not in_sweep and not (folder.parent / PLAN).exists()
    return Run(folder, settings.steps, resumed=resumed, swept=sweep.swept(folder), latest=alone)


def _with_one_line_errors(parser: ArgumentParser) -> ArgumentParser:
    """Hydra's parser, with one line in place of its usage."""
    parser.error = exit_with_error  # type: ignore[method-assign]
    return parser


def _answer(text: str) -> NoReturn:
    print(text)
    sys.exit(0)


def _check_flags(args: Namespace) -> None:
    if args.experimental_rerun:
        raise UserError("--experimental-rerun: not offered, since it runs code from a file; use the overrides")
    flags = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    given = [flag for flag, value in flags.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: only one of them at a time")
    for flag, value in (("--package", args.package), ("--resolve", args.resolve)):
        if value and not args.cfg:
            raise UserError(f"{flag}: goes with --cfg")


def _resume_arguments(args: Namespace, project: Project[Any], name: str, overrides: list[Override]) -> list[str]:
    """Checks and prepares a resumed run; returns the arguments with which Hydra finds its folder."""
    if args.multirun or args.info:
        raise UserError(f"resume={name}: does not go with {'--multirun' if args.multirun else '--info'}")
    folder = resume.folder_of(name)
    settings = resume.settings(folder, project, overrides)
    if args.cfg:
        _answer(OmegaConf.to_yaml(OmegaConf.structured(settings)).rstrip())
    lock.hold(folder)
    _resumed_settings[folder] = settings  # saved when the run has its state back
    own = [str(override.input_line) for override in overrides if override.key_or_group.startswith("hydra")]
    quoted = _quoted(folder)
    return [*own, f"resume={quoted}", f"hydra.run.dir={quoted}", "hydra.output_subdir=null"]


def _quoted(folder: Path) -> str:
    """A path as Hydra's grammar reads it back."""
    return typed(str(folder))


def _answer_write_errors_in_one_line() -> None:
    """A log that cannot be written ends no run, but is not lost without a word either.

    TensorBoard's writing thread hands its error on to the main thread, which says it.
    """

    def hand_on(error: threading.ExceptHookArgs) -> None:
        if error.exc_value is None or not is_unwritable(error.exc_value):
            threading.__excepthook__(error)

    threading.excepthook = hand_on

    def say(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and is_unwritable(error) and not said:
            said.append(True)
            print(f"warning: {handler.baseFilename}: {error.strerror}; the run goes on", file=sys.stderr)

    said: list[bool] = []
    for handler in [each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]:
        handler.handleError = say  # type: ignore[method-assign]


def _composer(project: Project[Any], args: Namespace) -> Composer[Any]:
    folder = project.root / args.config_path if args.config_path else project.conf  # as Hydra does: beside train.py
    extra = Path(args.config_dir).absolute() if args.config_dir else None
    for each in (folder, extra):
        if each is not None and not each.is_dir():
            raise UserError(f"{each}: no such folder of configurations")
    return Composer(project, folder, args.config_name or "train", extra)


def _show(args: Namespace, config: DictConfig) -> None:
    """What `--cfg job` would print, without Hydra's composing everything once more."""
    if args.package and OmegaConf.select(config, args.package) is None:
        raise UserError(f"--package={args.package}: no such part of the configuration")
    if args.cfg == "job" and not args.package:
        _answer(OmegaConf.to_yaml(without_hydra(config), resolve=args.resolve).rstrip())


def _planned(args: Namespace, composer: Composer[Any], overrides: list[str]) -> launch.Sweep:
    """A new sweep: checks every point, and writes the plan unless this is a dry run, which ends here."""
    master = composer.compose(overrides, multirun=True)
    _check_sweeper(master)
    plan = sweep.plan(composer, master, overrides, {name: getattr(args, name) for name in FLAGS})
    _check_folder("hydra.sweep.dir", master.hydra.sweep.dir, PLAN, "a sweep")
    folder = Path(master.hydra.sweep.dir)
    if taken := next((job for job in plan.jobs if (folder / str(job.number)).exists()), None):
        raise UserError(
            f"hydra.sweep.dir={folder}: {folder / str(taken.number)}, where a job would run, is there already"
        )
    found = launch.Sweep(folder, plan, composer, _at(composer, overrides, master.hydra.sweep.dir))
    if master.sweep.dry_run:
        _answer(launch.dry_run(found))
    plan.write(found.folder)
    return found


def _resumed(args: Namespace, project: Project[Any], path: str, overrides: list[str]) -> launch.Sweep:
    """A sweep that was planned before; its launcher may be another one now."""
    folder = Path(path).resolve()  # outputs/latest will point here
    if (plan := read_plan(folder)) is None:
        raise UserError(f"sweep.resume={path}: not the folder of a sweep; it has no {PLAN} that can be read")
    own = [each for each in overrides if each.split("=")[0] not in ("sweep.resume", "sweep.dry_run")]
    if wrong := next((each for each in own if not each.lstrip("+").startswith("hydra")), None):
        raise UserError(f"{wrong}: a sweep is resumed with the arguments that {folder / PLAN} names; leave this out")
    composer = _composer(project, Namespace(**{name: getattr(args, name) or plan.flags.get(name) for name in FLAGS}))
    changed = {each.partition("=")[0] for each in own}
    kept = [each for each in plan.arguments if each.lstrip("+").partition("=")[0] not in changed]
    if "hydra/launcher" in changed:  # the values of the launcher before mean nothing to another one
        kept = [each for each in kept if not each.lstrip("+").startswith("hydra.launcher.")]
    arguments = [*kept, *own]
    master = composer.compose(arguments, multirun=True)
    _check_sweeper(master)
    sweep.plan_again(plan, composer, master, folder)
    found = launch.Sweep(folder, plan, composer, _at(composer, arguments, str(folder)))
    if "sweep.dry_run=true" in overrides:
        _answer(launch.dry_run(found))
    return found


def _at(composer: Composer[Any], overrides: list[str], folder: str) -> DictConfig:
    """The sweep's configuration with its folder written out, so that every process means the same one."""
    JobRuntime.instance().set("name", composer.name)  # as hydra.main does, and the log's name
    return composer.compose(
        [*overrides, f"hydra.sweep.dir={_quoted(Path(folder).absolute())}", "hydra.mode=MULTIRUN"], multirun=True
    )


def _check_sweeper(master: DictConfig) -> None:
    if (name := master.hydra.runtime.choices["hydra/sweeper"]) != "basic":
        raise UserError(f"hydra/sweeper={name}: sweeps are grids here; scripts/tune.py searches")
    subdir = OmegaConf.to_container(master.hydra.sweep)["subdir"]  # type: ignore[index, call-overload]
    if subdir != "${hydra.job.num}":
        raise UserError(f"hydra.sweep.subdir={subdir}: a job's folder is its number; leave this out")


def _check_folder(key: str, value: str, file: str, what: str) -> None:
    """Raises UserError if the folder holds a run already, or cannot be made."""
    folder = Path(value).absolute()
    if (folder / file).exists():
        raise UserError(f"{key}={value}: holds {what} already")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{key}={value}: cannot be made, since {existing} is not a folder that can be written to")
