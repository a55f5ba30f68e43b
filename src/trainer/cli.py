"""The command line: what is checked before a run, and the run itself as Hydra calls it."""

import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from trainer import sweep
from trainer.compose import Composer, checked, register, without_hydra
from trainer.config import Mistake, Train
from trainer.help import help_text
from trainer.messages import explain

CONF = Path(__file__).parents[2] / "conf"
MISTAKE = 2  # the exit status of a user's mistake

log = logging.getLogger(__name__)
register()


def preflight(argv: list[str] | None = None) -> None:
    """Ends the program in one line if anything is wrong with the arguments, before any folder is made.

    Answers `--help` by itself. For a sweep every point is checked, and the plan is written into the
    sweep's folder, which `argv` (sys.argv by default) then names to Hydra.
    """
    argv = sys.argv if argv is None else argv
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    args = parser.parse_args(argv[1:])
    if args.hydra_help or args.info or args.shell_completion:
        return
    with one_line(args.overrides):
        if args.experimental_rerun:
            raise Mistake("--experimental-rerun: not offered, since it runs code from a file; use the overrides")
        composer = _composer(args)
        argv[1:] = composer.quoted(argv[1:])
        overrides = composer.quoted(args.overrides)
        multirun = args.multirun or "hydra.mode=MULTIRUN" in overrides
        config = composer.compose(overrides, multirun=multirun)
        if args.help:
            _answer(help_text(composer, config))
        if multirun:
            if not args.cfg:
                argv.append(_plan_sweep(composer, config, overrides))
            return
        settings = checked(config, overrides)
        if args.cfg == "job" and not args.package:
            # What Hydra would print, without its composing everything once more.
            _answer(OmegaConf.to_yaml(without_hydra(config), resolve=args.resolve).rstrip())
        if not args.cfg:
            check_machine(settings)


def check_machine(config: Train) -> None:
    """Raises for what a configuration wants and this machine, the data or the model has not.

    Loads torch only where something has to be looked up with it.
    """
    from trainer import needs

    needs.check(config)


def run(config: DictConfig) -> None:
    """One run, or one job of a sweep: from the composed configuration to an exit status."""
    settings = checked(config)
    logging.raiseExceptions = False  # a closed pipe, as in `… | head`, ends nothing
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    in_sweep = job.mode == RunMode.MULTIRUN
    from trainer.run import Run, point_latest

    if in_sweep and (earlier := sweep.duplicate_of(Path(job.sweep.dir), job.job.num)) is not None:
        Run(folder, settings.steps).duplicate(earlier)
        log.info("the same as job %d, which is not run again", earlier)
        return
    point_latest(folder.parent if in_sweep else folder)
    from trainer.loop import run_recorded

    try:
        ending = run_recorded(settings, folder)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    # A sweep goes on after a job that diverged, and ends with one that was interrupted.
    if ending.interrupted or (ending.code and not in_sweep):
        sys.exit(ending.code)


@contextmanager
def one_line(overrides: Sequence[str] = ()) -> Iterator[None]:
    """A user's mistake becomes one line on stderr and exit status 2; HYDRA_FULL_ERROR=1 shows the traceback."""
    try:
        yield
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        _refuse(explain(error, overrides))


def _answer(text: str) -> NoReturn:
    print(text)
    sys.exit(0)


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(MISTAKE)


def _composer(args: Namespace) -> Composer:
    folder = Path(args.config_path).absolute() if args.config_path else CONF
    extra = Path(args.config_dir).absolute() if args.config_dir else None
    for each in (folder, extra):
        if each is not None and not each.is_dir():
            raise Mistake(f"{each}: no such folder of configurations")
    return Composer(folder, args.config_name or "train", extra)


def _plan_sweep(composer: Composer, master: DictConfig, overrides: list[str]) -> str:
    """Checks every point and writes the plan; returns the override that names the sweep's folder to Hydra."""
    jobs, configs = sweep.plan(composer, master, overrides)
    for job, config in zip(jobs, configs, strict=True):
        if job.duplicate_of is None:
            check_machine(config)
    folder = Path(master.hydra.sweep.dir)
    sweep.write(folder, overrides, jobs)
    quoted = str(folder).replace("'", "\\'")
    return f"hydra.sweep.dir='{quoted}'"
