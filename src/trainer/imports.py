"""torch, imported without pauses for the garbage collector."""

import gc
import sys


def bring_torch() -> None:
    """Imports torch with the collector off: it would look again and again through objects that are there to stay.

    They are frozen, so that no later collection looks through them either.
    """
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
