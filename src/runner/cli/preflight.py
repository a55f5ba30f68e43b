"""What happens before `@hydra.main`: the arguments are checked, and resumed runs and sweeps are started."""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.cli import arguments, resume
from runner.cli.help import help_text
from runner.compose import Composer, checked, register, without_hydra
from runner.config import Project
from runner.errors import UserError, one_line_errors, print_line
from runner.runs.run import check_new
from runner.sweeps import sweep


def preflight(project: Project[Any], argv: Sequence[str] | None = None) -> None:
    """Returns if the arguments describe a single run, for `@hydra.main` to start; ends the program otherwise.

    A user error is answered in one line with exit status 2, before any folder exists. `--help`, `--cfg job`,
    `resume=RUN` and `-m` are handled here, and end with their own exit status. argv: sys.argv by default.
    """
    argv = sys.argv if argv is None else argv
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a run handles it, there is no state to save
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows every line
    args = arguments.parse(argv[1:])
    if args.hydra_help or args.version or args.shell_completion:
        register(project)
        return
    with one_line_errors(project, args.overrides):
        _check_processes()
        _check_working_directory()
        arguments.check(args)
        composer = Composer(project, args.config_name or "train")
        parsed = composer.parse(args.overrides)
        arguments.check_overrides(parsed)
        if args.help:
            print_line(help_text(composer, composer.compose(args.overrides)))
            sys.exit(0)
        if (name := resume.requested_run(parsed)) is not None:
            sys.exit(resume.resume(project, name, parsed, args))
        if sweep.is_requested(args.multirun, parsed):
            if flag := "--cfg" if args.cfg else "--info" if args.info else None:
                raise UserError(f"{flag}: shows the configuration of a single run")
            if wrong := next((override for override in parsed if override.key_or_group == "hydra.run.dir"), None):
                raise UserError(
                    f"{wrong.input_line}: is the folder of a single run; that of a sweep is hydra.sweep.dir"
                )
            sys.exit(sweep.main(composer, args.overrides))
        config = composer.compose(args.overrides)
        _check(config, composer, args)
        if args.cfg:
            _show(args, config)


def _check_processes() -> None:
    """Raises UserError where a launcher such as torchrun starts this program several times."""
    if (world_size := os.environ.get("WORLD_SIZE", "1")).isdecimal() and int(world_size) > 1:
        raise UserError(f"WORLD_SIZE={world_size}: one process trains a model here; start train.py without torchrun")


def _check_working_directory() -> None:
    """Raises UserError if the path has `${`: Hydra stores it as a value, and would resolve the interpolation."""
    if "${" in str(Path.cwd()):
        raise UserError(f"{Path.cwd()}: cannot be the working directory, since Hydra reads ${{ as an interpolation")


def _check(config: DictConfig, composer: Composer[Any], args: Namespace) -> None:
    """Raises UserError and InvalidField for a configuration that is not that of a single new run."""
    if config.hydra.mode == RunMode.MULTIRUN:
        raise UserError("hydra.mode=MULTIRUN: -m makes a sweep; leave this out of the file")
    settings = checked(config, composer.project, args.overrides)
    of_sweep = [override for override in args.overrides if override.lstrip("+").startswith(("sweep.", "hydra.sweep."))]
    if of_sweep:
        raise UserError(f"{of_sweep[0]}: there is no sweep; add -m")
    if settings.resume is not None:
        raise UserError(f"resume={settings.resume}: belongs on the command line, not in a file")
    if not args.cfg and not args.info:
        check_new("hydra.run.dir", config.hydra.run.dir, config.hydra.output_subdir)


def _show(args: Namespace, config: DictConfig) -> None:
    """Prints the configuration for `--cfg job`, without Hydra's node; Hydra handles the other forms of `--cfg`."""
    if args.package and OmegaConf.select(config, args.package) is None:
        raise UserError(f"--package={args.package}: no such part of the configuration")
    if args.cfg == "job" and not args.package:
        print_line(OmegaConf.to_yaml(without_hydra(config), resolve=args.resolve).rstrip())
        sys.exit(0)
