"""docs/recipes.md: every recipe runs if its package is installed, and clips before every optimizer step."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from tests.support import ROOT, exact_norm

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
NEEDS = {
    "Lightning": "lightning",
    "Fabric": "lightning",
    "Accelerate": "accelerate",
    "Hugging Face Trainer": "transformers",
}


@pytest.mark.filterwarnings("default")  # other people's packages warn
@pytest.mark.parametrize(("title", "code"), RECIPES, ids=[title for title, _ in RECIPES])
def test_a_recipe_clips(title: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = NEEDS.get(title)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert ".check()" in code
    monkeypatch.chdir(tmp_path)
    norms: list[float] = []

    def measure(optimizer: Optimizer, *_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norms.append(exact_norm([parameter.grad for parameter in parameters]))

    handle = register_optimizer_step_pre_hook(measure)
    try:
        exec(compile(code, title, "exec"), {"__name__": "recipe"})
    finally:
        handle.remove()
    assert len(norms) >= 2
    assert max(norms) <= 1 + 1e-6


def test_every_recipe_is_found() -> None:
    assert {title for title, _ in RECIPES} > set(NEEDS)
