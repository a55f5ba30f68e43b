"""What importing gradclip brings along."""

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


def test_policies_need_nothing_and_clipping_needs_torch_alone() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
