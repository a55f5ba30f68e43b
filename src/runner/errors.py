"""Every error of a configuration as one line that names the key, the value, what is allowed, and the nearest name."""

import argparse
import dataclasses
import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
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

from gradclip.errors import InvalidField, format_value
from gradclip.fields import Checked, Option, allowed
from runner.config import Project


class UserError(Exception):
    """What the user can correct: the message names the key, the value, and what is allowed."""


EXIT_USER_ERROR = 2  # the exit status of a user's mistake
EXIT_FAILURE = 1  # and of what is wrong with the machine or the program
REPLACED_HYDRA_GROUPS = {  # groups of Hydra's own, and the settings in their stead
    "hydra/sweeper": "sweep.method=grid or sweep.method=optuna says what -m does",
    "hydra/launcher": "sweep.jobs=4 runs four jobs at once, and sweep.launcher=slurm runs them on a cluster",
}
ASSIGNMENT_ERROR = re.compile(r"Invalid type assigned: \w+ is not a subclass of (?P<kind>\w+)\. value: (?P<value>.*)")
MERGE_ERROR = re.compile(r"In '(.+?)'.*Merge error: \w+ is not a subclass of (\w+)\. value: ([^\n]*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Reads a script's arguments, and answers a wrong one in one line without the usage."""

    def error(self, message: str) -> NoReturn:
        exit_with_error(message)


@contextmanager
def one_line_errors(project: Project[Any] | None = None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """A user's mistake becomes one line on stderr and exit status 2; HYDRA_FULL_ERROR=1 shows the traceback.

    project, overrides: those of the configuration that is composed in the block, for hints at the nearest key.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_user_error(error):
            raise
        exit_with_error(explain(error, project, overrides))


def exit_with_error(message: str, code: int = EXIT_USER_ERROR) -> NoReturn:
    """Ends the program with one line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def print_line(text: str) -> None:
    """Prints to stdout at once. A reader that has closed its end, as in `… | head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: BaseException, project: Project[Any] | None = None, overrides: Sequence[str] = ()) -> str:
    """The one line for an error that composing or checking a project's configuration with these overrides raised."""
    line = next((line for cause in _causes(error) if (line := _line(cause, project, overrides))), None)
    if line is None:
        line = str(error)
    return " ".join(line.split())


def is_user_error(error: BaseException) -> bool:
    """Whether the user can correct it: an error of a declared type, of this program, Hydra, OmegaConf or YAML.

    A path that is longer than the file system allows can only be the user's.
    """
    declared = UserError | InvalidField | HydraException | OmegaConfBaseException | yaml.YAMLError
    return isinstance(error, declared) or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG)


def _line(error: BaseException, project: Project[Any] | None, overrides: Sequence[str]) -> str | None:
    match error:
        case UserError() | InvalidField():
            return str(error)
        case OverrideParseException():
            return unparsable_override(error.override)
        case MissingConfigException(options=[*options], missing_cfg_file=str(path)):
            group, _, option = path.rpartition("/")
            if group in REPLACED_HYDRA_GROUPS:
                return replaced_hydra_group(f"{group}={option}")
            if not options and "/" in group:
                return f"{path}: no such file; a study chooses with `override /{group.rpartition('/')[2]}: {option}`"
            return unknown_option(group, option, options)
        case ConfigAttributeError() | ConfigKeyError() if error.full_key:
            return unknown_key(error.full_key, error.object_type, project, overrides)
        case ConfigCompositionException() if "Ambiguous value" in str(error):
            override = str(error).split("'")[1]
            as_list = override.replace("=", "=[", 1) + "]"
            return f"{override}: several values are a sweep: add -m; a list is written {as_list}"
        case ConfigTypeError() if "deletion" in str(error):
            return f"~{error.full_key}: this key cannot be deleted; give it a value"
        case ConfigCompositionException() if merge := MERGE_ERROR.search(str(error)):
            return scalar_for_node(merge[1], merge[2], merge[3], project)
        case MissingMandatoryValue():
            return missing_value(str(error.full_key), project)
        case InterpolationResolutionError() | GrammarParseError() if error.full_key:
            return first_line(error)
        case OmegaConfBaseException(full_key=str(key)) if key in (project.groups if project else ()):
            return missing_value(key, project)
        case OmegaConfBaseException(full_key=str(key), object_type=type() as owner) if _has_field(owner, key):
            return wrong_value(key, error.value, owner)
        case OmegaConfBaseException(full_key=str(key)) if "is not Optional" in str(error):
            return f"{key}: must not be null"
        case OmegaConfBaseException(full_key=str(key)) if assigned := ASSIGNMENT_ERROR.search(str(error)):
            return _wrong_node(key, assigned["kind"], assigned["value"], project)
        case OmegaConfBaseException() if error.full_key:
            return first_line(error)
        case yaml.MarkedYAMLError() if error.problem_mark:
            mark = error.problem_mark
            return f"{mark.name}, line {mark.line + 1}: not YAML: {error.problem}"
        case yaml.reader.ReaderError():
            return f"{error.name}: not YAML: {error.reason}"
    return None


def first_line(error: OmegaConfBaseException) -> str:
    """What OmegaConf says of a key, without the lines that repeat the key and its type."""
    return f"{error.full_key}: {error.msg or error}".split("\n")[0]


def replaced_hydra_group(override: str) -> str:
    """Hydra's own sweeper or launcher was chosen or configured, which this program does not use."""
    group = next(group for group in REPLACED_HYDRA_GROUPS if override.replace(".", "/").lstrip("+~").startswith(group))
    return f"{override}: not used here; {REPLACED_HYDRA_GROUPS[group]}"


def unparsable_override(override: str) -> str:
    """An override that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        return f"{override}: an override is key=value, and a flag begins with -"
    if not re.fullmatch(r"[~+]*[A-Za-z_][\w/@-]*(\.[\w@-]+)*", key, re.ASCII):
        return f"{override}: {key!r} cannot be read as a key"
    quoted = value.replace("'", "\\'")
    return f"{override}: cannot be read; put the value in quotes of its own: \"{key}='{quoted}'\""


def unknown_option(group: str, option: Any, options: Iterable[str]) -> str:
    """An option that a group does not have."""
    options = sorted(options)
    hint = nearest_name(str(option), options)
    meant = f"did you mean {group}={hint}? There" if hint else "there"
    return f"{group}={format_value(option)}: no such option; {meant} are {', '.join(options)}"


def scalar_for_node(file: str, kind: str, value: str, project: Project[Any] | None = None) -> str:
    """A plain value, in a file, of a key whose values are nodes: an option of a group, or keys below it.

    file: relative to conf/, without its ending. kind: the name of the class that describes the node.
    """
    if (group := _group_of(kind, project)) is None:
        keys = [
            key for key, field in (project.all_keys() if project else ()) if getattr(field.type, "__name__", "") == kind
        ]
        return f"{file}.yaml: {keys[0] if keys else kind}: {value}: must be given by its keys"
    base = project.groups[group] if project else Option
    if value not in base.options:
        return f"{file}.yaml: {unknown_option(group, value, base.options)}"
    entry = f"override /{group}: {value}" if "/" in file else f"{group}: {value}"
    return f"{file}.yaml: {group}: {value}: an option is chosen in the defaults list: defaults: [{entry}]"


def _wrong_node(key: str, kind: str, value: str, project: Project[Any] | None) -> str:
    group = _group_of(kind, project)
    form = f"an option is chosen by {group}@{key}={value}" if group else "must be given by its keys"
    return f"{key}={value}: {form}"


def _group_of(kind: str, project: Project[Any] | None) -> str | None:
    """The group with a class of this name."""
    for group, base in (project.groups if project else {}).items():
        if kind in {schema.__name__ for schema in (base, *base.options.values())}:
            return group
    return None


def unknown_key(
    key: str, owner: type | None, project: Project[Any] | None = None, overrides: Sequence[str] = ()
) -> str:
    """A key that the node it stands in does not have; the overrides may say which value it was to get."""
    parent, _, leaf = key.rpartition(".")
    written = next((o.lstrip("+") for o in overrides if o.lstrip("+").startswith(f"{key}=")), key)
    line = f"{written}: no such key"
    if key in ("experiment", "debug"):
        return f"{written}: is chosen on the command line, and its file has to begin with # @package _global_"
    if not _is_schema(owner):
        return line
    group = parent.split(".")[0]
    name = getattr(owner, "name", None)
    if advice := getattr(owner, "removed", {}).get(leaf):
        return f"{line} any more: {advice}"
    line += f" in {group}={name}" if name else ""
    if others := [option for option, has in _options_with(group, leaf, project) if has]:
        return f"{line}; it belongs to {' and '.join(f'{group}={option}' for option in others)}"
    path = f"{parent}." if parent else ""
    names = [field.name for field in dataclasses.fields(owner) if field.name != "name"] if owner else []
    near = nearest_name(leaf, names)
    hint = path + near if near else nearest_key(key, project)
    there = ", ".join(path + each for each in names)
    return f"{line}; did you mean {hint}?" if hint else f"{line}; there are {there}"


def wrong_value(key: str, value: Any, owner: type) -> str:
    """A value of the wrong type or out of range."""
    leaf = key.rpartition(".")[2]
    return f"{key}={format_value(value)}: must be {allowed(owner, leaf)}"


def missing_value(key: str, project: Project[Any] | None = None) -> str:
    """A key without a value."""
    options = _options(key, project)
    return f"{key}: has no value" + (f"; choose one of {', '.join(sorted(options))}" if options else "")


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)), None)


def nearest_key(key: str, project: Project[Any] | None) -> str | None:
    """The nearest key of the whole tree: by its last part when that alone is known, else by its spelling."""
    keys = sorted({name for name, _ in project.all_keys()}) if project else []
    leaf = key.rpartition(".")[2]
    ends = [each for each in keys if each.rpartition(".")[2] == leaf]
    return ends[0] if ends else nearest_name(key, keys)


def _options(group: str, project: Project[Any] | None) -> dict[str, type[Any]]:
    groups = project.groups if project else {}
    return groups[group].options if group in groups else {}


def _options_with(group: str, leaf: str, project: Project[Any] | None) -> list[tuple[str, bool]]:
    options = _options(group, project)
    return [(name, any(f.name == leaf for f in dataclasses.fields(schema))) for name, schema in options.items()]


def _is_schema(owner: Any) -> bool:
    return isinstance(owner, type) and issubclass(owner, Checked)


def _has_field(owner: type, key: str) -> bool:
    return _is_schema(owner) and key.rpartition(".")[2] in {field.name for field in dataclasses.fields(owner)}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def quote_override(value: str) -> str:
    """A text as Hydra's grammar reads it back: in quotes where it needs them."""
    if re.fullmatch(r"[A-Za-z0-9_./:*?@%|+-]+", value):
        return value
    # A backslash stands for itself, but before a quote.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value) + "'"
