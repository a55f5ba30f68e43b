"""docs/policies.md: a section and a plot per policy, valid commands; and the comparison with public code."""

import re
import shlex
from pathlib import Path

import pytest

from evidence import compare_policies, policies_page
from evidence.pages import cells, content
from gradclip import Policy
from tests.support import ROOT
from trainer.project import compose, composer

PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(Policy.options))
def test_every_policy_has_its_section(name: str) -> None:
    assert f"`{name}`" in PAGE
    if name != "none":
        assert f"\n## {name}\n" in PAGE
        assert f"](policies/{name}.png)" in PAGE


def test_its_commands_compose() -> None:
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        compose(*shlex.split(line)[2:])


def test_the_numbers_in_the_plots(tmp_path: Path) -> None:
    policies = {name: compose(f"clip={name}").clip for name in composer().options()["clip"]}
    norms_of = policies_page.record(policies, 3)
    assert norms_of.keys() == policies.keys()
    norm = norms_of["norm"]
    assert all(norms.before == norm.before for norms in norms_of.values()), "the same run"
    assert norm.after == pytest.approx([min(before, 1.0) for before in norm.before], rel=1e-6)
    assert norm.limits == [1.0] * 3
    assert norms_of["none"].after == pytest.approx(norm.before, rel=1e-6)
    pytest.importorskip("matplotlib")
    policies_page.draw(tmp_path / "norm.png", "norm", norm)
    assert (tmp_path / "norm.png").stat().st_size > 1000


def test_the_comparison_with_torch() -> None:
    """The comparison, run with torch, the only package that is always installed."""
    found = cells(content(compare_policies.PAGE.read_text(encoding="utf-8"), "differences"))
    assert len(found) == len(compare_policies.COMPARISONS)
    for row, (ours, package, _, theirs, why) in zip(found, compare_policies.COMPARISONS, strict=True):
        assert "not installed" not in row[2]
        assert float(row[3]) < 1e-14 or why
        if package == "torch":
            assert compare_policies.difference(ours, theirs) < 1e-6
