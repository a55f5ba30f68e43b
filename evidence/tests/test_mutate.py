"""Mutation testing: each mutant is one change, and is killed, survives or times out."""

import ast
from pathlib import Path

import pytest

from evidence import mutate
from evidence.mutate import GRADCLIP, Mutant

SOURCE = '''
"""A module."""
from functools import lru_cache
if TYPE_CHECKING:
    from math import inf

@lru_cache(maxsize=64)
def limit(a: int | None, b: bool = False) -> float | None:
    """A docstring."""
    if b:
        log(a)
    total |= a is None
    pairs = zip(a, a, strict=True)
    return -a if a < 3 or not b else a.amax()
'''
CHANGES = {
    "False  ->  True",
    "if b  ->  if not b",
    "log(a)  ->  None",
    "total |= a is None  ->  total &= a is None",
    "a is None  ->  a is not None",
    "-a  ->  +a",
    "a < 3 or not b  ->  a < 3 and (not b)",
    "a < 3  ->  a <= 3",
    "3  ->  4",
    "not b  ->  not not b",
    "a.amax  ->  a.amin",
}
TESTS = ("tests/gradclip/test_fields.py",)


def test_each_mutant_is_one_change_that_parses(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(SOURCE, encoding="utf-8")
    found = list(mutate.mutants(file))
    assert {mutant.what.partition(" ")[2] for mutant in found} == CHANGES
    assert len({mutant.source for mutant in found}) == len(found) == len(CHANGES)
    for mutant in found:
        ast.parse(mutant.source)


def test_a_sample_depends_on_its_seed_alone() -> None:
    found = [Mutant(Path("a.py"), str(number), "") for number in range(50)]
    chosen = mutate.sample(found, 10, 0)
    assert chosen == mutate.sample(found, 10, 0) != mutate.sample(found, 10, 1)
    assert chosen == sorted(set(chosen), key=found.index)
    assert len(chosen) == 10
    assert mutate.sample(found, None, 0) == mutate.sample(found, 99, 0) == found


def test_the_engine_is_everything_but_the_policies_and_functional() -> None:
    assert {"clipper.py", "norms.py", "scopes.py"} <= set(mutate.engine_files())
    assert "functional.py" not in mutate.engine_files()
    tests = mutate.engine_tests()
    assert "tests/gradclip/test_clipper.py" in tests
    assert "tests/gradclip/test_sharded.py" not in tests


@pytest.mark.parametrize(
    ("change", "limit", "outcome"),
    [
        (("", ""), 120.0, "survived"),
        (("def format_value(", "def format_values("), 120.0, "killed"),
        (("", ""), 0.01, "timed out"),
    ],
)
def test_the_outcome_of_a_mutant(change: tuple[str, str], limit: float, outcome: str) -> None:
    file = GRADCLIP / "errors.py"
    source = (mutate.ROOT / file).read_text("utf-8").replace(*change)
    assert mutate.outcome_of(Mutant(file, "1 a change", source), TESTS, limit) == outcome
