"""Overrides: parsed by Hydra's grammar, and checked for errors that Hydra ignores or reports without the key."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from runner.config import Project
from runner.errors import UserError, is_user_error
from runner.messages import number_for_text, unknown_option, unparsable_override

UNDECLARED_ERRORS = (ValueError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError, OSError)
HYDRA_TEXT_KEYS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.output_subdir", "hydra.job.name")


@contextmanager
def declared_errors(project: Project[Any]) -> Iterator[None]:
    """Turns an error that Hydra raises in the block without naming a key into a UserError.

    Hydra does so for some values and damaged files. The block holds calls of Hydra only: an error of this program or
    of a project's own code stays what it is.
    """
    try:
        yield
    except UNDECLARED_ERRORS as error:
        if is_user_error(error):  # some of the declared types are a ValueError or an OSError as well
            raise
        raise UserError(_describe(error, project)) from error


def _describe(error: Exception, project: Project[Any]) -> str:
    """The message for an error without a key: it names the file that is not UTF-8, or else conf/."""
    if isinstance(error, UnicodeDecodeError):
        for path in sorted(project.conf.rglob("*.yaml")):
            if error.object.startswith(path.read_bytes()[:1024]):
                return f"{path}: not UTF-8: {error}"
    return f"{project.conf}: cannot be composed: {type(error).__name__}: {error}"


def parse_overrides(lines: Sequence[str], loader: ConfigLoader, project: Project[Any]) -> list[Override]:
    """Parses overrides. Raises OverrideParseException, and UserError for a text that Hydra reads as a number."""
    for line in lines:
        if not line.partition("=")[0].strip("+"):
            raise UserError(unparsable_override(line))
    with declared_errors(project):
        overrides: list[Override] = OverridesParser.create(config_loader=loader).parse_overrides(list(lines))
    for override in overrides:
        _check_text(override, project)
    return overrides


def _check_text(override: Override, project: Project[Any]) -> None:
    """Raises UserError for a number, as in `hydra.run.dir=2024_01`, that is not the text that was written."""
    line, key = str(override.input_line), override.key_or_group
    if key not in project.text_keys and key not in HYDRA_TEXT_KEYS:
        return
    value = override.value()
    if isinstance(value, int | float) and not isinstance(value, bool) and str(value) != line.partition("=")[2]:
        raise UserError(number_for_text(line, value))


def option_groups(loader: ConfigLoader) -> list[str]:
    """The groups in conf/, without Hydra's own and the schemas."""
    return [name for name in loader.list_groups("") if name not in ("hydra", "schema")]


def check_options(overrides: Sequence[Override], loader: ConfigLoader) -> None:
    """Raises UserError for an option that its group lacks; Hydra's own error does not always name it."""
    groups = option_groups(loader)
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if group not in groups or override.is_delete() or override.is_sweep_override() or isinstance(value, dict):
            continue
        if override.is_add() or override.is_force_add():
            line = str(override.input_line)
            raise UserError(f"{line}: the group has an option already; write {line.lstrip('+')}")
        if value not in (options := loader.get_group_options(group)):
            raise UserError(unknown_option(group, value, options))


def check_searchpath(overrides: Sequence[Override]) -> None:
    """Raises UserError for a folder or package in `hydra.searchpath` that does not exist; Hydra only warns."""
    for override in overrides:
        value = override.value()
        for path in map(str, value if isinstance(value, list) else []):
            if not (_package_exists(path[6:]) if path.startswith("pkg://") else _folder_exists(path)):
                raise UserError(f"{override.input_line}: no such folder of configurations: {path}")


def _folder_exists(path: str) -> bool:
    return Path(path.removeprefix("file://")).is_dir()


def _package_exists(path: str) -> bool:
    name = path.replace("/", ".")
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # it has no parent, or one that is not a package
        return False
    return spec is not None and spec.origin is not None  # Hydra reads no package without an __init__.py
