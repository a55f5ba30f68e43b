"""Text files: encodings, line ends, compression, glob patterns, and a single-line error for each unreadable file."""

import codecs
import gzip
import tracemalloc
from pathlib import Path

import pytest

from runner.errors import UserError
from trainer.data import text_files
from trainer.data.text_files import read_texts

TEXT = "naïve 漢字 😀\nsecond line\n"


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def refused(path: str) -> str:
    """The error for a path, without its beginning, which names the path."""
    with pytest.raises(UserError) as caught:
        read_texts(path)
    message = str(caught.value)
    assert message.startswith(f"data.path={path}: ")
    assert "\n" not in message
    return message.removeprefix(f"data.path={path}: ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_with_a_byte_order_mark_and_utf_8_without_one_are_decoded(tmp_path: Path, encoding: str) -> None:
    assert read_texts(write(tmp_path / "a.txt", TEXT.encode(encoding))).text == TEXT


@pytest.mark.parametrize("mark", ["UTF16_LE", "UTF16_BE", "UTF32_LE", "UTF32_BE"])
def test_both_byte_orders_are_decoded(tmp_path: Path, mark: str) -> None:
    content = getattr(codecs, f"BOM_{mark}") + TEXT.encode(mark.replace("UTF", "utf-").replace("_", "-"))
    assert read_texts(write(tmp_path / "a.txt", content)).text == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark_is_named(tmp_path: Path, encoding: str) -> None:
    line = refused(write(tmp_path / "a.txt", ("café au lait\n" * 9).encode(encoding)))
    assert line == (f"seems to be {encoding.upper()} without a byte order mark, which it needs; or save it as UTF-8")


@pytest.mark.parametrize("content", [b"one\r\ntwo\r\n", b"one\ntwo\n", b"one\rtwo\r"])
def test_line_ends_become_lf(tmp_path: Path, content: bytes) -> None:
    assert read_texts(write(tmp_path / "a.txt", content)).text == "one\ntwo\n"


@pytest.mark.parametrize(("content", "line"), [
    (b"abc\xff", "neither UTF-8 nor UTF-16 with a byte order mark: byte 3 is 0xff"),
    ("caf\u00e9 au lait".encode("latin-1"), "neither UTF-8 nor UTF-16 with a byte order mark: byte 3 is 0xe9"),
    (codecs.BOM_UTF8 + b"abc\xff", "not UTF-8, which its byte order mark names: byte 6 is 0xff"),
    (codecs.BOM_UTF16_LE + b"a\0\1\xdc", "not UTF-16-LE, which its byte order mark names: byte 4 is 0x01"),
    (b"abc\0def", "a binary file, not a text: byte 3 is 0x00"),
    ("é".encode() + b"\0" + b"def" * 20, "a binary file, not a text: byte 2 is 0x00"),
    (codecs.BOM_UTF16_LE + b"a\0\0\0", "a binary file, not a text: byte 4 is 0x00"),
    (b"\x89PNG\r\n\x1a\n", "neither UTF-8 nor UTF-16 with a byte order mark: byte 0 is 0x89"),
])  # fmt: skip
def test_a_binary_file_is_refused_with_the_offset_of_the_first_bad_byte(
    tmp_path: Path, content: bytes, line: str
) -> None:
    assert refused(write(tmp_path / "a.txt", content)) == line


def test_a_compressed_file_is_decompressed(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path / "a.txt.gz", gzip.compress(TEXT.encode("utf-16"), mtime=0))).text == TEXT


@pytest.mark.parametrize(
    "content", [b"plain text", gzip.compress(TEXT.encode(), mtime=0)[:-12], b""], ids=["plain", "truncated", "empty"]
)
def test_a_damaged_compressed_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "a.gz", content)
    if content:
        assert refused(path).startswith("a damaged gzip file: ")
    else:
        assert read_texts(path).text == ""  # as gzip itself reads it


def test_files_are_sorted_by_name_and_joined_by_newlines(tmp_path: Path) -> None:
    for name, content in {"b.txt": b"B\n", "a.txt": b"A", "c.txt": b"", "d.txt": b"D", "e.md": b"E"}.items():
        write(tmp_path / name, content)
    (tmp_path / "folder.txt").mkdir()
    names, text = read_texts(str(tmp_path / "*.txt"))
    assert [Path(name).name for name in names] == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert text == "A\nB\nD"


def test_a_file_with_the_exact_name_is_read_instead_of_matches(tmp_path: Path) -> None:
    write(tmp_path / "1.txt", b"matches")
    path = write(tmp_path / "[1].txt", b"exact")
    assert read_texts(path).text == "exact"
    Path(path).unlink()
    assert read_texts(path).text == "matches"


def test_a_path_without_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(str(tmp_path / "missing.txt")) == "no such file"
    assert refused(str(tmp_path / "*.txt")) == "no file matches"
    assert refused(str(tmp_path)) == f"not a file; {tmp_path}/*.txt reads the text files in a folder"
    write(tmp_path / "a.txt", b"A")
    write(tmp_path / "b.txt", b"\xff")
    line = refused(str(tmp_path / "*.txt"))
    assert line == f"{tmp_path}/b.txt: neither UTF-8 nor UTF-16 with a byte order mark: byte 0 is 0xff"

    def denied(path: Path, mode: str) -> None:  # simulated, since a test that runs as root can read every file
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert refused(str(tmp_path / "a.txt")) == "Permission denied"


def test_the_sum_of_all_decompressed_bytes_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1 << 20
    monkeypatch.setattr(text_files, "MAX_BYTES", limit)
    write(tmp_path / "a.txt", b"a" * (limit // 2))
    write(tmp_path / "b.txt", b"b" * (limit // 2))
    assert len(read_texts(str(tmp_path / "*.txt")).text) == limit + 1
    write(tmp_path / "c.txt", b"c")
    assert refused(str(tmp_path / "*.txt")).startswith(f"{tmp_path}/c.txt: the text is held in memory, and 1,048,576 ")
    path = write(tmp_path / "bomb.gz", gzip.compress(bytes(64 * limit), mtime=0))
    tracemalloc.start()
    try:
        assert refused(path).startswith("the text is held in memory, and 1,048,576 bytes are the most")
        assert tracemalloc.get_traced_memory()[1] < 8 * limit
    finally:
        tracemalloc.stop()
