"""docs/gradients.md: its text is written by hand, its tables between two marks by the studies."""

import re

from runner.errors import UserError


def replace(text: str, study: str, content: str) -> str:
    """The page with the content between `<!-- study -->` and `<!-- end of study -->`; raises UserError without them."""
    pattern = re.compile(rf"(<!-- {study} -->\n).*?(<!-- end of {study} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UserError(f"the page needs the marks <!-- {study} --> and <!-- end of {study} -->, once")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def content(text: str, study: str) -> str:
    """What stands between a study's marks."""
    found = re.search(rf"<!-- {study} -->\n(.*?)\n<!-- end of {study} -->", text, re.DOTALL)
    assert found is not None
    return found[1]
