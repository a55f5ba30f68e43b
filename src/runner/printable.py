"""Text from data or files as it may be printed: without what a terminal obeys instead of showing."""

import unicodedata

CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, line and paragraph separators
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # embeddings, overrides and isolates


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
