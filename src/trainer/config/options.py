"""The registration of the options of a group: every module of the folder that holds them is imported."""

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules


def import_all(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package, so that the options defined there join their group's `options`.

    package, path: the package's `__name__` and `__path__`.
    """
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
