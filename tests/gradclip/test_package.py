"""What importing gradclip imports, and what it exports."""

import subprocess
import sys

import gradclip
from tests.support import ENV

CODE = """
import sys, gradclip
gradclip.ClipByNorm(max=1.0)
assert "torch" not in sys.modules
gradclip.Clipper
assert "torch" in sys.modules
print({name.split(".")[0] for name in sys.modules} & {"runner", "trainer", "hydra", "omegaconf", "tensorboard"})
"""


def test_policies_import_only_the_standard_library_and_clipping_only_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_exists_and_is_listed() -> None:
    assert dir(gradclip) == sorted(gradclip.__all__)
    assert all(hasattr(gradclip, name) for name in gradclip.__all__)
