"""What gradclip imports and exports, the examples in its docstrings, and what static checkers know of it."""

import doctest
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import gradclip
from gradclip import Policy
from tests.support import ENV, ROOT

CODE = """
import sys, gradclip
gradclip.ClipByNorm(max=1.0)
assert "torch" not in sys.modules
gradclip.Clipper
assert "torch" in sys.modules
found = {name.split(".")[0] for name in sys.modules}
print(found & {"runner", "trainer", "hydra", "omegaconf", "tensorboard"})
"""


def test_policies_import_only_the_standard_library_and_clipping_only_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_exists_and_is_listed() -> None:
    assert dir(gradclip) == sorted(gradclip.__all__)
    assert all(hasattr(gradclip, name) for name in gradclip.__all__)


@pytest.mark.parametrize("policy", [p for p in Policy.options.values() if p.__module__.startswith("gradclip.")])
def test_every_policy_has_a_formula_a_source_and_an_example_that_runs(policy: type[Policy]) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(policy, policy.__name__)
    assert len(example.examples) >= 5
    output: list[str] = []
    doctest.DocTestRunner().run(example, out=output.append)
    assert not output, "".join(output)
    assert policy.__doc__ is not None
    if policy.kind not in ("measure", "decision", "composite"):
        first = policy.__doc__.partition("\n\n")[0]
        assert any(sign in first for sign in ("←", "= ", "√")), "the first sentence has no formula"
    assert policy.kind == "measure" or "Source: " in policy.__doc__


USE = """
from gradclip import ClipByNorm, ZClip

ClipByNorm()
ClipByNorm(max="1")
ZClip()
ClipByNorm(max=1.0, nonfinite="drop")
"""


def test_static_checkers_know_which_fields_are_required(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    settings = f"[mypy]\nmypy_path = {ROOT / 'src'}\n[mypy-torch.*]\nfollow_imports = skip\n"  # torch takes 10 s
    (tmp_path / "mypy.ini").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [line.split(" error: ")[1] for line in done.stdout.splitlines()[:-1] if line.startswith("use.py")] == [
        'Missing named argument "max" for "ClipByNorm"  [call-arg]',
        'Argument "max" to "ClipByNorm" has incompatible type "str"; expected "float"  [arg-type]',
    ]


def test_the_module_prints_versions_and_every_policy() -> None:
    done = subprocess.run([sys.executable, "-m", "gradclip"], env=ENV, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:3] == [f"gradclip {gradclip.__version__}", f"torch {metadata.version('torch')}", ""]
    assert [line.split()[0] for line in lines[4:]] == sorted(
        name for name, policy in Policy.options.items() if policy.__module__.startswith("gradclip.")
    )


CHANGELOG = (ROOT / "src" / "gradclip" / "CHANGELOG.md").read_text(encoding="utf-8")


def listed(word: str, text: str) -> set[str]:
    """The names of the list items of a changelog that begin with the word."""
    items = re.findall(rf"^- {word}: (.*?)(?=^- |^#|\Z)", text, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`(\w+)`", "".join(items)))


def test_the_changelog_lists_every_public_name_and_removes_none_without_a_deprecation() -> None:
    versions = re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", CHANGELOG, re.DOTALL | re.MULTILINE)
    assert versions[0][0] == gradclip.__version__
    public, deprecated = set[str](), set[str]()
    for _, text in reversed(versions):
        assert listed("Removed", text) <= deprecated
        deprecated |= listed("Deprecated", text)
        public = (public | listed("Added", text)) - listed("Removed", text)
    assert public == set(gradclip.__all__)
