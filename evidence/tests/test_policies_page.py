"""docs/policies.md: every policy has its section and picture, its commands run, and its figures are those found."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from evidence import compare_policies, policies_page
from gradclip import Policy
from tests.support import ROOT
from trainer.project import compose, composer

PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(Policy.options))
def test_every_policy_has_its_place(name: str) -> None:
    assert f"`{name}`" in PAGE
    if name != "none":
        assert f"\n## {name}\n" in PAGE
        assert f"](policies/{name}.png)" in PAGE
        assert (ROOT / "docs" / "policies" / f"{name}.png").is_file()


def test_its_commands_compose() -> None:
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        compose(*shlex.split(line)[2:])


def test_torch_still_goes_wrong_where_it_says_so() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, torch.nn.Parameter] = {}
    exec(code, names)
    assert names["w"].grad.tolist() == [0.0] * 4
    exec(code.replace("torch.nn.utils", "gradclip.functional"), names)
    assert names["w"].grad.tolist() == pytest.approx([0.5] * 4)


def test_the_pictures_figures(tmp_path: Path) -> None:
    policies = {name: compose(f"clip={name}").clip for name in composer().options("clip")}
    figures = policies_page.record(policies, 3)
    assert figures.keys() == policies.keys()
    befores = [before for before, _, _ in figures.values()]
    assert all(before == befores[0] for before in befores), "one and the same run"
    before, after, limits = figures["norm"]
    assert after == pytest.approx([min(norm, 1.0) for norm in before], rel=1e-6)
    assert limits == [1.0] * 3
    pytest.importorskip("matplotlib")
    policies_page.draw(tmp_path / "norm.png", "norm", before, after, limits)
    assert (tmp_path / "norm.png").stat().st_size > 1000


def test_torch_beside_the_policies() -> None:
    """The comparison itself, with the one package that is always there."""
    for ours, package, _, theirs, _ in compare_policies.COMPARISONS:
        if package == "torch":
            assert compare_policies.difference(ours, theirs) < 1e-6
    page = (ROOT / "evidence" / "docs" / "policies_compared.md").read_text(encoding="utf-8")
    assert page.count("\n| `") == len(compare_policies.COMPARISONS)
    assert "not installed" not in page


def test_the_largest_differences_are_those_of_the_comparison() -> None:
    section = PAGE[PAGE.index("## Beside") : PAGE.index("## Where public")]
    rows = re.findall(
        r"^\| `.*", (ROOT / "evidence" / "docs" / "policies_compared.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    for row in rows:
        _, _, _, version, figure, *_ = (cell.strip() for cell in row.split("|"))
        assert version in section
        assert float(figure) < 1e-14 or f"{figure} from {version}" in section
