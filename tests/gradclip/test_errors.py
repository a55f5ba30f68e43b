"""What messages say of values, options and names."""

from dataclasses import dataclass

import pytest

from gradclip.errors import UnmatchedPatternError, format_value
from gradclip.fields import Checked, allowed, field


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (0.5, "0.5"),
        ("a", "a"),
        ([1, None, "b"], "[1,null,b]"),
    ],
)
def test_a_value_is_written_as_on_the_command_line(value: object, written: str) -> None:
    assert format_value(value) == written


def test_twelve_names_are_listed_and_more_are_hinted_at() -> None:
    twelve = [f"p{number}" for number in range(12)]
    assert str(UnmatchedPatternError("include", "x", twelve)).endswith("p10, p11")
    assert str(UnmatchedPatternError("include", "x", [*twelve, "p12"])).endswith("p11, …")


@dataclass(kw_only=True)
class Options(Checked):
    one: str = field("a single option", default="a", choices=("a",))
    three: str = field("three options", default="a", choices=("a", "b", "c"))


def test_options_in_words() -> None:
    assert allowed(Options, "one") == "a"
    assert allowed(Options, "three") == "a, b or c"
