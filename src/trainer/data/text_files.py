"""Reading text: one file or several, compressed or not, in UTF-8 or in the encoding that a byte order mark names."""

import codecs
import glob
import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

from runner.errors import UserError

MAX_BYTES = 1 << 27  # of all files, decompressed: the text is held in memory, encoded at up to 20 bytes a character
SNIFFED_BYTES = 1 << 16  # in which null bytes are counted to recognize UTF-16 without a byte order mark
BOMS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class Texts(NamedTuple):
    """The names of the files that were read, and their joined text."""

    names: list[str]
    text: str


def read_texts(path: str | None) -> Texts:
    """The text of a file, of all files that match a glob pattern, or of Python's help topics (None).

    Several files are sorted by name and joined; a newline is inserted after a file that does not end in one. A file
    whose name is the pattern itself, with its brackets, is read alone. Files that end in `.gz` are decompressed.
    Line ends (CRLF, CR) become LF. The help topics differ a little between the versions of Python.

    Raises UserError for a file that is missing, unreadable or binary, and for more than MAX_BYTES.
    """
    if path is None:
        from pydoc_data.topics import topics

        return Texts(["pydoc_data.topics"], "\n\n".join(topics[name] for name in sorted(topics)))
    files, size, parts = _files(path), 0, []
    for file in files:
        where = f"data.path={path}" + ("" if str(file) == path else f": {file}")
        content = _read(file, MAX_BYTES - size, where)
        size += len(content)
        text = decode(content, where).replace("\r\n", "\n").replace("\r", "\n")
        parts += [text, "\n" if text and not text.endswith("\n") and file != files[-1] else ""]
    return Texts([str(file) for file in files], "".join(parts))


def decode(content: bytes, where: str) -> str:
    """The text in the encoding that the byte order mark names, or in UTF-8 without a mark.

    Raises UserError, which begins with `where` and has the offset of the first bad byte, for anything else.
    """
    mark = next((mark for mark in BOMS if content.startswith(mark)), b"")
    encoding = BOMS.get(mark, "utf-8")
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        offset = len(mark) + error.start
    else:
        if "\0" not in text:
            return text
        offset = len(mark) + len(text[: text.index("\0")].encode(encoding))
    raise UserError(f"{where}: {_problem(content, mark, offset)}")


def _problem(content: bytes, mark: bytes, offset: int) -> str:
    """Why the content is not text. offset: of the first byte that is null or invalid in the encoding."""
    if not mark and (likely := _encoding_without_mark(content)):
        return f"seems to be {likely} without a byte order mark, which it needs; or save it as UTF-8"
    if content[offset] == 0:
        problem = "a binary file, not a text"
    elif mark:
        problem = f"not {BOMS[mark].upper()}, which its byte order mark names"
    else:
        problem = "neither UTF-8 nor UTF-16 with a byte order mark"
    return f"{problem}: byte {offset} is 0x{content[offset]:02x}"


def _encoding_without_mark(content: bytes) -> str | None:
    """UTF-16-LE or UTF-16-BE where null bytes are at odd or at even offsets only, and are a tenth of all; else None."""
    even, odd = (content[start:SNIFFED_BYTES:2].count(0) for start in (0, 1))
    if len(content) % 2 or min(even, odd) > 0 or 10 * max(even, odd) < min(len(content), SNIFFED_BYTES):
        return None
    return "UTF-16-BE" if even else "UTF-16-LE"


def _files(path: str) -> list[Path]:
    """The file of this name, or else the files that match it as a glob pattern, sorted by name."""
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).exists():
        raise UserError(f"data.path={path}: not a file; {path}/*.txt reads the text files in a folder")
    if not any(character in path for character in "*?["):
        raise UserError(f"data.path={path}: no such file")
    names = glob.glob(path, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    matching = sorted(name for name in names if Path(name).is_file())
    if not matching:
        raise UserError(f"data.path={path}: no file matches")
    return [Path(name) for name in matching]


def _read(path: Path, limit: int, where: str) -> bytes:
    """A file's bytes, decompressed. Raises UserError, without reading the rest, if there are more than `limit`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{where}: a damaged gzip file: {error}") from error
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from error
    if len(content) > limit:
        raise UserError(f"{where}: the text is held in memory, and {MAX_BYTES:,} bytes are the most, decompressed and "
                        "in all files")  # fmt: skip
    return content
