"""src/gradclip is a distribution of its own: its wheel holds only the package, and depends on torch alone."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from tests.support import ROOT

SOURCE = ROOT / "src" / "gradclip"
CLIP = """
import gradclip, torch
weight = torch.nn.Parameter(torch.zeros(2))
weight.grad = torch.tensor([3.0, 4.0])
report = gradclip.Clipper([("weight", weight)], gradclip.ClipByNorm(max=1.0)).clip()
torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]))
print(gradclip.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel offline, from a copy of the sources, since the build leaves files in the folder."""
    folder = tmp_path_factory.mktemp("distribution")
    ignored = shutil.ignore_patterns("__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(SOURCE, folder / "gradclip", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", "out", "./gradclip"], cwd=folder, check=True)
    (built,) = (folder / "out").glob("gradclip-*.whl")
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    (text,) = (content for name, content in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(text)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    sources = [path for path in SOURCE.rglob("*.py") if "build" not in path.relative_to(SOURCE).parts]
    expected = {f"gradclip/{path.relative_to(SOURCE).as_posix()}" for path in [*sources, SOURCE / "py.typed"]}
    assert "gradclip/policies/fixed.py" in expected
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == expected


def test_the_wheel_requires_torch_alone(wheel: Path) -> None:
    required = [each for each in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in each]
    assert [re.split(r"\W", each)[0] for each in required] == ["torch"]


def test_the_wheel_contains_its_licence(wheel: Path) -> None:
    (text,) = (content for name, content in contents(wheel).items() if name.endswith("/licenses/LICENSE"))
    assert text == (SOURCE / "LICENSE").read_bytes()


def test_the_unpacked_wheel_clips_and_runs_the_first_example_of_its_readme(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    example, *_ = re.findall(r"```python\n(.*?)```", str(metadata(wheel).get_payload()), re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")}
    command = [sys.executable, "-c", example + CLIP]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert Path(done.stdout.splitlines()[-1]) == tmp_path / "unpacked" / "gradclip" / "__init__.py"
