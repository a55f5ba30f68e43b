"""What importing gradclip brings along."""

import subprocess
import sys

from tests.support import ENV


def test_the_clipping_module_needs_torch_alone() -> None:
    code = (
        "import sys, gradclip, torch\n"
        "from gradclip import Clipper, ClipByNorm\n"
        "print({name.split('.')[0] for name in sys.modules} & {'runner', 'trainer', 'hydra', 'omegaconf'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
