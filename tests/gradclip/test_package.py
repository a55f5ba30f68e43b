"""The modules that importing gradclip imports."""

import subprocess
import sys

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
