"""Conventions of this repository: tags in one module, public functions with docstrings, no path of a machine."""

import ast
import re
import subprocess

from tests.support import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_tags_are_defined_in_one_module() -> None:
    for path in SOURCES:
        if path.name != "tags.py" and "integrations" not in path.parts:  # gradclip does not know the runner
            text = path.read_text(encoding="utf-8")
            written = set(re.findall(r'"((?:grad_norm|clip|metric|grad_norm_before|grad_norm_after)/[^"]*)"', text))
            assert not written, path


def test_train_py_is_short() -> None:
    assert len((ROOT / "train.py").read_text(encoding="utf-8").splitlines()) <= 30


def test_every_module_and_public_function_has_a_docstring() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or not tree.body, path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name != "build":
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_no_file_contains_a_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in {".png", ".txt"} or "tests/" in name or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w./])/(home|root|work|tmp|Users)/\w", text), name
