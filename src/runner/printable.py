"""How values are printed: losses with enough digits, and text without what a terminal obeys instead of showing."""

import unicodedata

CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, line and paragraph separators
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # embeddings, overrides and isolates


def format_loss(value: float) -> str:
    """A loss with at least four significant digits: 2.3026, 0.01235 or 3.200e-05."""
    return f"{value:.4f}" if value == 0 or 0.1 <= abs(value) < 1e5 else f"{value:#.4g}"


def format_mean(mean: float, deviation: float | None) -> str:
    """A mean loss and, unless it is None, ± its standard deviation, with at least two significant digits."""
    if deviation is None:
        return format_loss(mean)
    decimals = deviation == 0 or 1e-3 <= deviation < 1e5
    return f"{format_loss(mean)} ± {deviation:{'.4f' if decimals else '.2g'}}"


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with control characters and bidirectional overrides escaped, such as \\x1b; all letters stay.

    keep: control characters that stay; "" for a text that has to be one line.
    """
    return "".join(
        character if character in keep or not _is_control(character) else character.encode("unicode_escape").decode()
        for character in text
    )


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in CATEGORIES or unicodedata.bidirectional(character) in DIRECTIONS


def count_of(number: int, noun: str) -> str:
    """A number with a noun in the singular or the plural, such as `1 run` and `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
