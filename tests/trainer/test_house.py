"""The house keeps its order: imports go down, a name stands in its room, the project speaks of itself alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ENV, ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_the_clipping_module_needs_torch_alone() -> None:
    code = (
        "import sys, gradclip, torch\n"
        "from gradclip import Clipper, ClipByNorm\n"
        "print({name.split('.')[0] for name in sys.modules} & {'trainer', 'hydra', 'omegaconf', 'tensorboard'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_tags_stand_in_tracking_alone(path: Path) -> None:
    if path.name != "tracker.py":
        text = path.read_text(encoding="utf-8")
        written = set(re.findall(r'"((?:grad_norm|clip|metric|grad_norm_before|grad_norm_after)/[^"]*)"', text))
        assert not written


def test_train_py_is_short() -> None:
    assert len((ROOT / "train.py").read_text(encoding="utf-8").splitlines()) <= 40


def test_every_public_thing_says_what_it_is() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or not tree.body, path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name != "build":
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_no_path_of_a_machine_and_no_host() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in {".png", ".txt"} or name.startswith("tests/") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w./])/(home|root|work|tmp|Users)/\w", text), name
