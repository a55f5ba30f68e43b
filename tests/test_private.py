"""The private interfaces of other packages in use are those listed in tests/private_interfaces.md.

A name that begins with an underscore is private, and so are a replaced method, a rewritten `sys.argv` and a frame's
variables. Code in strings and in `evidence/` is not searched.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

OWN = {"gradclip", "runner", "trainer", "scripts", "tests", "evidence"}
DOCUMENTED = {"os._exit", "_replace", "_asdict"}  # public, although they begin with an underscore
SETTABLE = {
    "grad",
    "grad_dtype",
    "torch.backends.cudnn.benchmark",
    "wall_time",
    "simple_value",
}  # documented as ones to assign
REPLACED = {"error", "handleError"}  # methods that must not be replaced by assignment
WITHOUT_UNDERSCORE = {"unwrap", "f_locals", "mallopt", "set_start_method"}
BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}  # functions and methods that take an attribute's name


def sources() -> list[Path]:
    """The Python files of the project, relative to the root."""
    found = [path for folder in ("src", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in [*found, ROOT / "train.py"])


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def definitions(tree: ast.AST) -> set[str]:
    """The names that a file defines: functions, classes, variables, and attributes of `self` and `cls`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
        if isinstance(node, ast.Module | ast.ClassDef):
            statements = [each for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign)]
            targets = [target for each in statements for target in getattr(each, "targets", None) or [each.target]]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def imports(tree: ast.AST) -> dict[str, str]:
    """The dotted names of all imports by their local names; `import a.b` binds `a`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name] = alias.name
                if alias.asname is None:
                    found[alias.name.partition(".")[0]] = alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_own(dotted: str) -> bool:
    return dotted.partition(".")[0] in OWN


def foreign_names(tree: ast.AST, private: set[str], assigned: set[str]) -> Iterator[str]:
    """The private names of other packages that a file uses, and the names that it replaces in them.

    private: names of the project itself that the file may use although they begin with an underscore. assigned: the
    names of all attributes of the project. A name that belongs to an imported module is dotted.
    """
    bound = imports(tree)
    for dotted in bound.values():
        if not is_own(dotted) and any(is_private(part) or part in WITHOUT_UNDERSCORE for part in dotted.split(".")):
            yield dotted
    for node in ast.walk(tree):
        attribute = node if isinstance(node, ast.Attribute) else named_attribute(node)
        if attribute is not None:
            name, module = attribute.attr, foreign_module(attribute, bound)
            reaches_in = is_private(name) and (module is not None or name not in private)
            stored = not isinstance(attribute.ctx, ast.Load) and not is_self(attribute.value)
            replaces = stored and (module is not None or name in REPLACED or name not in assigned | private)
            if reaches_in or replaces or name in WITHOUT_UNDERSCORE:
                yield f"{module}.{name}" if module else name


def named_attribute(node: ast.AST) -> ast.Attribute | None:
    """`a.b` for `getattr(a, "b")`, `setattr(a, "b", …)` and pytest's `setattr("a.b", …)`; None for other nodes."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] not in BY_NAME:
        return None
    match node.args:
        case [ast.Constant(value=str(dotted)), *_]:
            owner, _, name = dotted.rpartition(".")
            return ast.Attribute(ast.Name(owner), name, ast.Load())
        case [owner, ast.Constant(value=str(name)), *_]:
            return ast.Attribute(owner, name, ast.Load())
    return None


def foreign_module(node: ast.Attribute, bound: dict[str, str]) -> str | None:
    """The dotted name of the object with the attribute, if it belongs to a module of another package."""
    root, _, rest = ast.unparse(node.value).partition(".")
    if root not in bound or is_own(bound[root]):
        return None
    return f"{bound[root]}.{rest}" if rest else bound[root]


def uses() -> set[tuple[str, str]]:
    """The private interfaces in use, as (name, file)."""
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in sources()}
    defined = {path: definitions(tree) for path, tree in trees.items()}
    everything = set().union(*defined.values())
    found: set[tuple[str, str]] = set()
    for path, tree in trees.items():
        # The names of the file and of the files that it imports; tests may use those of the whole project.
        known = (
            everything
            if path.parts[0] == "tests"
            else defined[path].union(*(defined[each] for each in imported_files(tree) if each in defined))
        )
        names = set(foreign_names(tree, known, everything)) - DOCUMENTED - SETTABLE
        found |= {(name, path.as_posix()) for name in names}
    return found


def imported_files(tree: ast.AST) -> Iterator[Path]:
    for dotted in imports(tree).values():
        for name in (dotted, dotted.rpartition(".")[0]):
            base = Path("src", *name.split("."))
            yield from (base.with_suffix(".py"), base / "__init__.py")


def listed() -> set[tuple[str, str]]:
    """The rows of the table in tests/private_interfaces.md, as (name, file)."""
    text = (ROOT / "tests" / "private_interfaces.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    pairs = ([re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows)
    return {(name, file) for names, files in pairs for name in names for file in files}


def test_the_table_lists_the_private_interfaces_in_use() -> None:
    used, in_table = uses(), listed()
    assert in_table
    assert used - in_table == set(), "missing in the table of tests/private_interfaces.md"
    assert in_table - used == set(), "in the table of tests/private_interfaces.md, but not used"


def test_there_is_no_code_for_windows() -> None:
    """Windows is not supported: a run syncs its folder and locks a file by POSIX calls."""
    pattern = re.compile(
        r"win32|msvcrt|os\.name\b|creationflags|WindowsPath|hasattr\((signal|os), \"(SIG|sysconf|getload)"
    )
    others = [path for path in sources() if path != Path(__file__).relative_to(ROOT)]
    found = [str(path) for path in others if pattern.search((ROOT / path).read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch._dynamo", {"torch._dynamo"}),
        ("from hydra._internal.hydra import Hydra", {"hydra._internal.hydra.Hydra"}),
        ("from os import _exit as leave", {"os._exit"}),
        ("from __future__ import annotations", set()),
        ("from gradclip.norms import _floor", set()),
        ("import torch as t\nt._foreach_norm([])", {"torch._foreach_norm"}),
        ("import torch.nn\ntorch.nn.modules._x.y", {"torch.nn.modules._x"}),
        ("tensor._values()", {"_values"}),
        ("model().inner._version", {"_version"}),
        ("class A(B):\n    def f(self): return self._get_node()", {"_get_node"}),
        ("class A:\n    def __init__(self): self._a = 1\n    def f(self, other): return other._a", set()),
        ("def _own(): pass\nimport trainer\ntrainer._own()", set()),
        ("def _exit(): pass\nimport os\nos._exit(1)", {"os._exit"}),
        ("x.__class__.__name__", set()),
        ("getattr(x, '_meta')", {"_meta"}),
        ("import os\npatch.setattr(os, '_exit', f)", {"os._exit"}),
        ("patch.setattr('torch._meta', 1)", {"_meta"}),
        ("import inspect\ninspect.unwrap(f)", {"inspect.unwrap"}),
        ("frame.f_locals['x']", {"f_locals"}),
        ("ctypes.CDLL(None).mallopt(1, 2)", {"mallopt"}),
        ("from multiprocessing import set_start_method", {"multiprocessing.set_start_method"}),
        ("import sys\nsys.argv = []\nsys.argv[0]\nsys.path[:] = []", {"sys.argv"}),
        (
            "import sys, threading\nsys.excepthook = threading.excepthook = f",
            {"sys.excepthook", "threading.excepthook"},
        ),
        ("parser.error = f", {"error"}),
        ("handler.handleError = f", {"handleError"}),
        ("loader.load_configuration = f", {"load_configuration"}),
        ("del other.value", {"value"}),
        ("class State:\n    step: int = 0\nstate.step += 1", set()),
    ],
)
def test_how_a_private_interface_is_recognized(code: str, expected: set[str]) -> None:
    tree = ast.parse(code)
    assert set(foreign_names(tree, definitions(tree), definitions(tree))) == expected
