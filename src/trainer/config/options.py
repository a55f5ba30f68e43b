"""The options of a group: every module with a schema is imported, and each is built by a module of its name."""

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from runner.errors import UserError


def import_all(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package, so that the options defined there join their group's `options`.

    package, path: the package's `__name__` and `__path__`.
    """
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")


def builder(package: str, group: str, name: str) -> Callable[..., Any]:
    """The function `build` of the module that builds an option. Raises UserError if there is no such module."""
    module = f"{package}.{name}"
    try:
        build: Callable[..., Any] = import_module(module).build
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(
            f"{group}={name}: there is no src/{module.replace('.', '/')}.py with a function build"
        ) from None
    return build
