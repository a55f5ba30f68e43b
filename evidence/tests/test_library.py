"""gradclip in an environment with nothing but torch: installed as its README says, every block of the README runs."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.gradclip import blocks
from tests.support import ROOT

pytestmark = pytest.mark.slow
OTHER_PACKAGES = ("lightning", "transformers", "accelerate", "huggingface")


@pytest.fixture(scope="module", params=["git", "wheel"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with gradclip, installed from the repository or as a wheel, and torch."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    source = f"git+file://{ROOT}#subdirectory=src/gradclip"
    if request.param == "wheel":
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), source]
        subprocess.run(command, check=True)
        (source,) = map(str, folder.glob("*.whl"))
    command = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), source]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return python


def test_the_readme_runs_with_torch_alone(python: Path, tmp_path: Path) -> None:
    listed = subprocess.run([str(python), "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^gradclip\s+\d", listed, re.MULTILINE)
    assert not re.search(r"^(numpy|hydra-core|omegaconf|tensorboard|pytest)\s", listed, re.MULTILINE)
    chosen = [block for block in blocks.BLOCKS if not any(name in block for name in OTHER_PACKAGES)]
    assert len(chosen) >= 10
    for block in chosen:
        blocks.run(block, tmp_path, str(python))


def test_the_module_prints_its_policies(python: Path, tmp_path: Path) -> None:
    done = subprocess.run([str(python), "-m", "gradclip"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("gradclip ")
    assert "ClipByNorm" in done.stdout
