"""docs/recipes.md: every recipe runs where its package is installed, and clips before every step of the optimizer."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from gradclip import Clipper, ClipReport
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
def test_a_recipe_clips_and_checks(title: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = NEEDS.get(title)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    after: list[float] = []
    checks: list[int] = []
    real_clip, real_check = Clipper.clip, Clipper.check

    def clip(self: Clipper) -> ClipReport:
        report = real_clip(self)
        if not report.dropped:
            after.append(exact_norm([p.grad for p in self._parameters]))
        return report

    def check(self: Clipper) -> None:
        real_check(self)
        checks.append(1)

    monkeypatch.setattr(Clipper, "clip", clip)
    monkeypatch.setattr(Clipper, "check", check)
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(code, title, "exec"), names)
    assert len(checks) >= len(after) >= 2
    assert max(after) <= 1 + 1e-6


def test_every_recipe_is_found() -> None:
    assert {title for title, _ in RECIPES} >= set(NEEDS)
    assert len(RECIPES) == 5
