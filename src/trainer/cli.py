"""The command line: what is checked before a run, and the run itself as Hydra calls it."""

import logging
import os
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from trainer import lock, resume, sweep
from trainer.compose import Composer, checked, load, register, save, without_hydra
from trainer.config import Mistake, Text, Train
from trainer.files import is_unwritable
from trainer.help import help_text
from trainer.messages import explain, is_mistake

CONF = Path(__file__).parents[2] / "conf"
MISTAKE = 2  # the exit status of a user's mistake
FAILED = 1  # and of what is wrong with the machine or the program

log = logging.getLogger(__name__)
register()


def preflight(argv: list[str] | None = None) -> None:
    """Ends the program in one line if anything is wrong with the arguments, before any folder is made.

    Answers `--help` by itself. For a sweep every point is checked, and the plan is written into the
    sweep's folder, which `argv` (sys.argv by default) then names to Hydra.
    """
    if argv is None:
        argv = sys.argv
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the run itself listens, there is nothing to save
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 loses no line
    args = one_line_errors(get_args_parser()).parse_intermixed_args(argv[1:])
    if args.hydra_help or args.shell_completion:
        return
    with one_line(args.overrides):
        _check_flags(args)
        composer = _composer(args)
        overrides = composer.quoted(args.overrides)
        # Hydra's own parser takes no flag after an override that follows another flag.
        argv[1:] = [argument for argument in argv[1:] if argument not in args.overrides] + overrides
        parsed = composer.parse(overrides)
        if (run := resume.asked(parsed)) is not None and not args.help:
            argv[1:] = _go_on(args, run, parsed)
            return
        config = composer.compose(overrides, multirun=args.multirun)
        if args.help:
            _answer(help_text(composer, config))
        if config.hydra.mode == RunMode.MULTIRUN and not args.multirun:
            args.multirun, config = True, composer.compose(overrides, multirun=True)
        if args.multirun:
            argv.append(_plan_sweep(composer, config, overrides))
            return
        settings = checked(config, overrides)
        if settings.resume is not None:
            raise Mistake(f"resume={settings.resume}: belongs on the command line, and in no file")
        if args.cfg:
            _show(args, config)
        elif not args.info:
            _check_folder("hydra.run.dir", config.hydra.run.dir, "status.json", "a run")
            check_machine(settings)


def check_machine(config: Train) -> None:
    """Raises for what a configuration wants and this machine, the data or the model has not."""
    from trainer import needs

    needs.check(config)


def run(config: DictConfig) -> None:
    """One run, one job of a sweep, or the rest of a run: from the composed configuration to an exit status."""
    logging.raiseExceptions = False  # a closed pipe, as in `… | head`, ends nothing
    _answer_write_errors_in_one_line()
    job = HydraConfig.get()
    in_sweep = job.mode == RunMode.MULTIRUN
    resumed = config.resume is not None
    folder = Path(config.resume if resumed else job.runtime.output_dir)
    settings = load(folder) if resumed else _with_absolute_paths(checked(config))
    from trainer.run import Run, point_latest

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.hold(folder)
        earlier = sweep.duplicate_of(Path(job.sweep.dir), job.job.num, settings) if in_sweep else None
        if not resumed and earlier is None:
            save(settings, folder)  # first of all: with it a run can go on, wherever it is killed
        record = Run(folder, settings.steps, resumed=resumed)
        if earlier is not None:
            record.duplicate(earlier)
            log.info("the same as job %d, which is not run again", earlier)
            return
        with record.recorded():
            if in_sweep or not (folder.parent / sweep.PLAN).exists():
                point_latest(Path(job.sweep.dir) if in_sweep else folder)
            from trainer import loop  # brings torch in, and a signal may come meanwhile

            loop.execute(settings, record)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Mistake as error:  # what only came to light now, such as a file that has vanished
        if in_sweep:
            raise
        refuse(str(error))
    except OSError as error:
        if in_sweep or not is_unwritable(error):
            raise
        refuse(f"{error.filename}: {error.strerror}; the run can go on: resume={folder}", FAILED)
    ending = record.ending()
    # A sweep goes on after a job that diverged, and ends with one that was interrupted.
    if ending.interrupted or (ending.code and not in_sweep):
        sys.exit(ending.code)


@contextmanager
def one_line(overrides: Sequence[str] = ()) -> Iterator[None]:
    """A user's mistake becomes one line on stderr and exit status 2; HYDRA_FULL_ERROR=1 shows the traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_mistake(error):
            raise
        refuse(explain(error, overrides))


def refuse(message: str, code: int = MISTAKE) -> NoReturn:
    """Ends the program with one line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def one_line_errors(parser: ArgumentParser) -> ArgumentParser:
    """The parser, with one line in place of its usage."""
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _answer(text: str) -> NoReturn:
    print(text)
    sys.exit(0)


def _check_flags(args: Namespace) -> None:
    if args.experimental_rerun:
        raise Mistake("--experimental-rerun: not offered, since it runs code from a file; use the overrides")
    flags = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    given = [flag for flag, value in flags.items() if value]
    if len(given) > 1:
        raise Mistake(f"{' and '.join(given)}: only one of them at a time")
    for flag, value in (("--package", args.package), ("--resolve", args.resolve)):
        if value and not args.cfg:
            raise Mistake(f"{flag}: goes with --cfg")


def _go_on(args: Namespace, name: str, overrides: list[Override]) -> list[str]:
    """Checks and prepares the continuation of a run; returns the arguments with which Hydra finds its folder."""
    if args.multirun or args.info:
        raise Mistake(f"resume={name}: does not go with {'--multirun' if args.multirun else '--info'}")
    folder = resume.folder_of(name)
    settings = resume.settings(folder, overrides)
    if args.cfg:
        _answer(OmegaConf.to_yaml(OmegaConf.structured(settings)).rstrip())
    check_machine(settings)
    lock.hold(folder)
    save(settings, folder)
    own = [str(override.input_line) for override in overrides if override.key_or_group.startswith("hydra")]
    quoted = _quoted(folder)
    return [*own, f"resume={quoted}", f"hydra.run.dir={quoted}", "hydra.output_subdir=null"]


def _quoted(folder: Path) -> str:
    """A path as Hydra's grammar reads it back."""
    return "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_absolute_paths(config: Train) -> Train:
    """So that the run can be evaluated, and go on, from anywhere."""
    if isinstance(config.data, Text) and config.data.path is not None:
        config.data.path = to_absolute_path(config.data.path)
    if config.init_from is not None:
        config.init_from = str(Path(to_absolute_path(config.init_from)).resolve())  # outputs/latest will be this run
    return config


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


def _composer(args: Namespace) -> Composer:
    folder = CONF.parent / args.config_path if args.config_path else CONF  # as Hydra does: beside train.py
    extra = Path(args.config_dir).absolute() if args.config_dir else None
    for each in (folder, extra):
        if each is not None and not each.is_dir():
            raise Mistake(f"{each}: no such folder of configurations")
    return Composer(folder, args.config_name or "train", extra)


def _show(args: Namespace, config: DictConfig) -> None:
    """What `--cfg job` would print, without Hydra's composing everything once more."""
    if args.package and OmegaConf.select(config, args.package) is None:
        raise Mistake(f"--package={args.package}: no such part of the configuration")
    if args.cfg == "job" and not args.package:
        _answer(OmegaConf.to_yaml(without_hydra(config), resolve=args.resolve).rstrip())


def _plan_sweep(composer: Composer, master: DictConfig, overrides: list[str]) -> str:
    """Checks every point and writes the plan; returns the override that names the sweep's folder to Hydra."""
    jobs, configs = sweep.plan(composer, master, overrides)
    subdir = OmegaConf.to_container(master.hydra.sweep)["subdir"]  # type: ignore[index, call-overload]
    if len(jobs) > 1 and not any(part in str(subdir) for part in ("job.num", "job.id", "override_dirname")):
        raise Mistake(f"hydra.sweep.subdir={subdir}: must tell the jobs apart, as ${{hydra.job.num}} does")
    _check_folder("hydra.sweep.dir", master.hydra.sweep.dir, sweep.PLAN, "a sweep")
    for job, config in zip(jobs, configs, strict=True):
        if job.duplicate_of is None:
            try:
                check_machine(config)
            except Mistake as error:
                raise Mistake(f"{error} (job {job.number}: {' '.join(job.overrides)})") from None
    folder = Path(master.hydra.sweep.dir)
    sweep.write(folder, overrides, jobs)
    return f"hydra.sweep.dir={_quoted(folder)}"


def _check_folder(key: str, value: str, file: str, what: str) -> None:
    """Raises Mistake if the folder holds a run already, or cannot be made."""
    folder = Path(value).absolute()
    if (folder / file).exists():
        raise Mistake(f"{key}={value}: holds {what} already")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise Mistake(f"{key}={value}: cannot be made, since {existing} is not a folder that can be written to")
