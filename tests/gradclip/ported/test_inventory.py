"""Every behaviour of the public suites has a case or a reason, and README.md has the counts."""

import re
from collections import Counter

import pytest

from tests.gradclip.ported.behaviours import FOLDER, SECTIONS, Behaviour, all_numbers, cases
from tests.gradclip.ported.not_wanted import NOT_WANTED
from tests.support import ROOT


def table() -> str:
    """The counts of behaviours by suite and section, as in README.md."""
    here = {(each.suite, each.number) for each in cases() if not each.covered_by}
    elsewhere = {(each.suite, each.number) for each in cases() if each.covered_by} - here
    unwanted = {(each.suite, each.number) for each in NOT_WANTED}
    other = {(each.suite, each.number) for each in cases() if each.differs}
    lines = ["| suite | behaviours | cases here | other result on purpose | cases elsewhere | not wanted |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for suite, sections in SECTIONS.items():
        for section, count in sections.items():
            counts = [
                sum(in_section(pair, suite, section) for pair in pairs) for pairs in (here, other, elsewhere, unwanted)
            ]
            lines.append(f"| {f'{suite} {section}'.strip()} | {count} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def in_section(pair: tuple[str, str], suite: str, section: str) -> bool:
    return pair[0] == suite and pair[1].rpartition(".")[0] == section


def test_every_behaviour_has_a_case_or_a_reason() -> None:
    covered = {(each.suite, each.number) for each in cases()}
    unwanted = Counter((each.suite, each.number) for each in NOT_WANTED)
    assert not covered & unwanted.keys()
    assert sorted([*covered, *unwanted]) == sorted(all_numbers())
    assert max(unwanted.values()) == 1
    assert all(reason.strip() for reason in NOT_WANTED.values())


@pytest.mark.parametrize("case", [each for each in cases() if each.covered_by], ids=lambda case: case.number)
def test_a_case_elsewhere_exists(case: Behaviour) -> None:
    path, name = case.covered_by.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_counts_of_the_readme() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert table() in text, f"README.md lacks this table:\n{table()}"
