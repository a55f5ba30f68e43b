"""UserError, and how an error of the user becomes one line and exit status 2."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from gradclip.errors import InvalidField
from gradclip.fields import allowed
from runner.config import Project
from runner.messages import (
    REPLACED_HYDRA_GROUPS,
    has_field,
    missing_value,
    replaced_hydra_group,
    scalar_in_file,
    scalar_override,
    unknown_key,
    unknown_option,
    unparsable_override,
    wrong_value,
)
from runner.printable import printable


class UserError(Exception):
    """An error that the user can correct; the message names the key, the value, and what is allowed."""


EXIT_FAILURE = 1  # a bug, or an error of the machine such as a full disk
EXIT_USER_ERROR = 2
# OmegaConf's messages for a plain value of a key that has keys below it.
ASSIGNMENT_ERROR = re.compile(r"Invalid type assigned: \w+ is not a subclass of (?P<kind>\w+)\. value: (?P<value>.*)")
SCHEMA_ERROR = re.compile(r"Could not load 'schema/(\w+)/(\w+)'")
MERGE_ERROR = re.compile(r"In '(.+?)'.*Merge error: \w+ is not a subclass of (\w+)\. value: ([^\n]*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a wrong argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        exit_with_error(message)


@contextmanager
def one_line_errors(project: Project[Any] | None = None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Turns a user error raised in the block into one line on stderr and exit status 2.

    HYDRA_FULL_ERROR=1 shows its traceback instead. project, overrides: those of the configuration that is composed in
    the block, for hints at the nearest key.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_user_error(error):
            raise
        exit_with_error(explain(error, project, overrides))


@contextmanager
def as_user_errors(project: Project[Any], overrides: Sequence[str]) -> Iterator[None]:
    """Turns a user error of any type, such as Hydra's, raised in the block into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_user_error(error):
            raise
        raise UserError(explain(error, project, overrides)) from None


def exit_with_error(message: str, code: int = EXIT_USER_ERROR) -> NoReturn:
    """Ends the program with one line on stderr."""
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(code)


def print_line(text: str) -> None:
    """Prints to stdout and flushes. A pipe that its reader has closed, as in `… | head`, is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: BaseException, project: Project[Any] | None = None, overrides: Sequence[str] = ()) -> str:
    """The message, in one line, for an error raised while a configuration was composed or checked.

    project, overrides: those of the configuration.
    """
    messages = (_message(cause, project, overrides) for cause in _causes(error))
    message = next((message for message in messages if message), str(error))
    return " ".join(message.split())


def is_user_error(error: BaseException) -> bool:
    """Whether the type of an error says that the user can correct it; any other error is shown with its traceback.

    Such types are those of this program, Hydra, OmegaConf and PyYAML, and OSError for a path that is too long.
    """
    declared = UserError | InvalidField | HydraException | OmegaConfBaseException | yaml.YAMLError
    return isinstance(error, declared) or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG)


def _message(error: BaseException, project: Project[Any] | None, overrides: Sequence[str]) -> str | None:
    """The message for an error of one of the declared types; None where its own text is the message."""
    match error:
        case InvalidField(key=str(key)) if key:
            return wrong_value(key, error.value, error.allowed, overrides)
        case UserError() | InvalidField():
            return str(error)
        case OverrideParseException():
            return unparsable_override(error.override)
        case MissingConfigException(options=[*options], missing_cfg_file=str(path)):
            group, _, option = path.rpartition("/")
            if group in REPLACED_HYDRA_GROUPS:
                return replaced_hydra_group(f"{group}={option}")
            if not options and "/" in group:
                entry = f"override /{group.rpartition('/')[2]}: {option}"
                return f"{path}: no such file; an experiment chooses an option by `{entry}`"
            return unknown_option(group, option, options)
        case ConfigAttributeError() | ConfigKeyError() if error.full_key:
            return unknown_key(error.full_key, error.object_type, project, overrides)
        case ConfigCompositionException() if "Ambiguous value" in str(error):
            override = str(error).split("'")[1]
            as_list = override.replace("=", "=[", 1) + "]"
            return f"{override}: several values are a sweep: add -m; a list is written {as_list}"
        case ConfigTypeError() if "deletion" in str(error):
            return f"~{error.full_key}: this key cannot be deleted; give it a value"
        case ConfigCompositionException() if schema := SCHEMA_ERROR.search(str(error)):
            group, option = schema.groups()
            return f"{group}={option}: no class has the name {option}, which conf/{group}/{option}.yaml refers to"
        case ConfigCompositionException() if merge := MERGE_ERROR.search(str(error)):
            return scalar_in_file(merge[1], merge[2], merge[3], project, overrides)
        case MissingMandatoryValue():
            return missing_value(str(error.full_key), project)
        case InterpolationResolutionError() | GrammarParseError() if error.full_key:
            return _first_line(error)
        case OmegaConfBaseException(full_key=str(key)) if key in (project.groups if project else ()):
            return missing_value(key, project)
        case OmegaConfBaseException(full_key=str(key), object_type=type() as owner) if has_field(owner, key):
            return wrong_value(key, error.value, allowed(owner, key.rpartition(".")[2]), overrides)
        case OmegaConfBaseException(full_key=str(key)) if "is not Optional" in str(error):
            return f"{key}: must not be null"
        case OmegaConfBaseException(full_key=str(key)) if assigned := ASSIGNMENT_ERROR.search(str(error)):
            return scalar_override(key, assigned["kind"], assigned["value"], project)
        case OmegaConfBaseException() if error.full_key:
            return _first_line(error)
        case yaml.MarkedYAMLError() if error.problem_mark:
            mark = error.problem_mark
            return f"{mark.name}, line {mark.line + 1}: not YAML: {error.problem}"
        case yaml.reader.ReaderError():
            return f"{error.name}: not YAML: {error.reason}"
    return None


def _first_line(error: OmegaConfBaseException) -> str:
    """OmegaConf's message about a key, without the lines that repeat the key and its type."""
    return f"{error.full_key}: {error.msg or error}".split("\n")[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def quote_override(value: str) -> str:
    """A text as the value of an override, in quotes if Hydra's grammar needs them to read back the same text."""
    if re.fullmatch(r"[A-Za-z0-9_./:*?@%|+-]+", value):
        return value
    # A backslash stands for itself, but before a quote.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + match[2].replace("'", "\\'"), value) + "'"


def quote_path(path: str) -> str:
    """A path as the value of an override, which is not read as a number, as null or as a home directory."""
    number = r"[+-]?(\.?\d[\d_.]*(e[+-]?\d+)?|nan|inf)"
    ambiguous = path.startswith("~") or re.fullmatch(rf"{number}|true|false|null", path, re.IGNORECASE)
    return quote_override(f"./{path}" if ambiguous else path)
