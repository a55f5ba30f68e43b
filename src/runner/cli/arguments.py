"""The command-line arguments of train.py, those of Hydra, parsed and checked before `@hydra.main` parses them."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override

from runner.errors import EXIT_USER_ERROR, Parser, UserError, exit_with_error
from runner.messages import REPLACED_HYDRA_GROUPS, replaced_hydra_group

UNSUPPORTED_FLAGS = {  # Hydra's flags that are not supported, and what to use instead
    "--config-path": "conf/ is the folder; 'hydra.searchpath=[file://FOLDER]' adds another",
    "--config-dir": "'hydra.searchpath=[file://FOLDER]' adds a folder of configurations",
    "--experimental-rerun": "it runs code from a file; use the overrides",
}


def parse(arguments: Sequence[str]) -> Namespace:
    """Parses the overrides and Hydra's flags; an unknown flag ends the program in one line."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    for short, name in (("-h", "--help"), ("-r", "--run"), ("-m", "--multirun"), ("-sc", "--shell-completion")):
        parser.add_argument(short, name, action="store_true")
    for name in ("--hydra-help", "--version", "--resolve"):
        parser.add_argument(name, action="store_true")
    for short, name in (
        ("-p", "--package"),
        ("-cn", "--config-name"),
        ("-cp", "--config-path"),
        ("-cd", "--config-dir"),
    ):
        parser.add_argument(short, name)
    parser.add_argument("--experimental-rerun")
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("-i", "--info", nargs="?", const="all",
                        choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"))  # fmt: skip
    args, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        name = unknown[0].lstrip("-")
        value = next(iter(arguments[arguments.index(unknown[0]) + 1 :]), "…") if unknown[0] in arguments else "…"
        setting = name if "=" in name else f"{name}={'…' if value.startswith('-') or '=' in value else value}"
        exit_with_error(f"{unknown[0]}: no such flag; a setting has no dashes: {setting}", EXIT_USER_ERROR)
    return args


def check(args: Namespace) -> None:
    """Raises UserError for flags that are not supported or do not go together."""
    for flag, instead in UNSUPPORTED_FLAGS.items():
        if _value(args, flag):
            raise UserError(f"{flag}: not supported: {instead}")
    if len(given := [flag for flag in ("--run", "--multirun", "--cfg", "--info") if _value(args, flag)]) > 1:
        raise UserError(f"{' and '.join(given)}: only one of them at a time")
    for flag in ("--package", "--resolve"):
        if _value(args, flag) and not args.cfg:
            raise UserError(f"{flag}: has an effect only with --cfg")


def check_overrides(overrides: Sequence[Override]) -> None:
    """Raises UserError for a setting of Hydra's launcher, sweeper or mode, with what replaces it."""
    for override in overrides:
        key = override.key_or_group
        if key.replace(".", "/").startswith(tuple(REPLACED_HYDRA_GROUPS)):
            raise UserError(replaced_hydra_group(str(override.input_line)))
        if key == "hydra.mode":
            raise UserError(f"{override.input_line}: -m makes a sweep; leave this out")


def _value(args: Namespace, flag: str) -> Any:
    """The value that `parse` stored for a flag."""
    return getattr(args, flag.lstrip("-").replace("-", "_"))
