"""The recipes of the library's README that train: every optimizer step has clipped gradients, and none has a nan."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from tests.gradclip import blocks
from tests.support import exact_norm

RECIPES = {title: code for title, code in blocks.titled().items() if 'nonfinite="drop"' in code}
BAD = 2  # the index of the batch that is nan


@pytest.mark.filterwarnings("default")  # other people's packages warn
@pytest.mark.parametrize("title", RECIPES)
@pytest.mark.parametrize("bad", [False, True])
def test_a_recipe_clips_and_leaves_out_a_step_with_a_nan(
    title: str, bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if absent := blocks.missing_packages(RECIPES[title]):
        pytest.skip(f"not installed: {', '.join(absent)}; the extra `recipes` has it")
    monkeypatch.chdir(tmp_path)
    norms: list[float] = []

    def measure(optimizer: Optimizer, *_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if any(parameter.grad is not None for parameter in parameters):
            norms.append(exact_norm([parameter.grad for parameter in parameters]))

    code = RECIPES[title]
    if bad:
        code = f"import torch\nreal, count = torch.randn, 0\ndef spoiled(*sizes):\n    global count\n    count += 1\n" \
               f"    return real(*sizes) * (float('nan') if count == {BAD} or sizes[0] == 16 else 1.0)\n" \
               f"torch.randn = spoiled\n{code}"  # fmt: skip
    handle = register_optimizer_step_pre_hook(measure)
    real = torch.randn
    try:
        exec(compile(code, title, "exec"), {"__name__": "recipe"})
    finally:
        torch.randn = real
        handle.remove()
    assert bad or len(norms) >= 2
    assert all(norm <= 1 + 1e-6 for norm in norms)  # a nan compares false


def test_the_recipes_are_found() -> None:
    assert set(RECIPES) == {
        "Mixed precision and accumulation",
        "Lightning",
        "Hugging Face Trainer",
        "Accelerate",
        "Fabric",
    }
