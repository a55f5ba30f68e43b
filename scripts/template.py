"""Reads a template: which files a project gets from it, and what they contain under the project's own name."""

import hashlib
import json
import keyword
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.errors import UserError

RECORD = ".template.json"  # of a project: which template it was made from
CACHES = {".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "outputs"}
OTHER_PACKAGES = ("gradclip", "runner", "scripts", "tests", "evidence", "conf", "docs", "outputs")
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)#:\s]+)(?:#[^)]*)?\)")  # to a file
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TEMPLATE_ONLY = re.compile(rb"^.*(?:#|<!--) template[ ]only.*\n", re.MULTILINE)  # such lines are left out of a project
Contents = dict[str, bytes]  # by path, relative to the root of a project


@dataclass
class Template:
    """A template's folder, and what its scripts/template.toml says."""

    root: Path
    version: str
    package: str
    left_out: list[str]
    not_renamed: list[str]
    updated: list[str]
    not_updated: list[str]
    slim: dict[str, list[str]]
    changed_keys: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path) -> "Template":
        """Reads the template in a folder. Raises UserError if the folder holds none."""
        path = root / "scripts" / "template.toml"
        if not path.is_file():
            raise UserError(f"{root}: not a template; it has no scripts/template.toml")
        return cls(root=root, **tomllib.loads(path.read_text(encoding="utf-8")))

    def files(self) -> list[str]:
        """All files of the template, without caches and outputs, relative to its root."""
        if (self.root / ".git").exists():
            command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            listed = subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout
            found = [name for name in listed.split("\0") if name and (self.root / name).is_file()]
        else:  # an archive
            found = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]
            found = [name for name in found if not CACHES & set(Path(name).parts) and ".egg-info" not in name]
        return sorted({*found, "outputs/.gitkeep"})

    def is_updated(self, path: str) -> bool:
        """Whether `make update` replaces the file."""
        return matches(path, self.updated) and not matches(path, self.not_updated)

    def for_project(self, *, slim: bool) -> list[str]:
        """The files that a project gets."""
        files = [path for path in self.files() if not matches(path, self.left_out)]
        return [path for path in files if not (slim and self._is_left_out_by_slim(path))]

    def contents(self, files: Iterable[str], name: str) -> Contents:
        """The files as they are in a project of this name: renamed, with links to missing files removed, formatted."""
        files = list(files)
        found: Contents = {}
        for path in files:
            content = (self.root / path).read_bytes() if (self.root / path).exists() else b""
            content = re.sub(TEMPLATE_ONLY, b"", content)
            if not matches(path, self.not_renamed):
                content = rename(content, self.package, name)
            found[rename_path(path, self.package, name)] = content
        for path, content in found.items():
            if path.endswith(".md"):
                found[path] = unlink(content.decode(), path, found).encode()
        blocks = {f"{path}.{number}.py": block.encode()
                  for path, content in found.items() if path.startswith("docs/") and path.endswith(".md")
                  for number, block in enumerate(PYTHON_BLOCK.findall(content.decode()))}  # fmt: skip
        settings = (self.root / "pyproject.toml").read_bytes()
        done = formatted(found | blocks, rename(settings, self.package, name))
        for name_of_block, block in blocks.items():
            path = name_of_block.rsplit(".", 2)[0]
            done[path] = done[path].replace(block, done.pop(name_of_block))
        return done

    def _is_left_out_by_slim(self, path: str) -> bool:
        stem = Path(path).stem.removeprefix("test_")
        for group, kept in self.slim.items():
            options = {option.stem for option in (self.root / "conf" / group).glob("*.yaml")} - set(kept)
            folders = (f"conf/{group}/", f"src/{self.package}/config/{group}/", f"src/{self.package}/{group}s/",
                       f"src/{self.package}/{group}/", f"tests/{self.package}/")  # fmt: skip
            if stem in options and path.startswith(folders):
                return True
        return False


@dataclass
class Record:
    """What a project knows of its template, in .template.json.

    files: the SHA-256 of each file that an update may replace, as the project got it.
    """

    version: str
    commit: str | None
    package: str
    left_out: list[str]
    files: dict[str, str]

    @classmethod
    def read(cls, root: Path) -> "Record | None":
        """The record of the project in a folder, or None for the template itself. Raises UserError if damaged."""
        try:
            return cls(**json.loads((root / RECORD).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{root / RECORD}: not readable ({error})") from None

    def text(self) -> bytes:
        """The record as the content of its file."""
        return (json.dumps(vars(self), indent=1) + "\n").encode()


def digest(content: bytes) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def commit_of(root: Path) -> str | None:
    """The commit that is checked out in a folder; None without git."""
    if not (root / ".git").exists():
        return None
    command = ["git", "rev-parse", "--verify", "-q", "HEAD"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip() or None


def check_clean(root: Path) -> None:
    """Raises UserError unless the folder is a git repository in which everything is committed."""
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    if status.returncode or status.stdout:
        raise UserError("commit your changes first, so that git can undo what follows: git status is not clean")


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether any of the patterns matches the path."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def rename(content: bytes, old: str, new: str) -> bytes:
    """Replaces a package's name, wherever it is a word of its own; a file that is not text is left as it is."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    return re.sub(rf"\b{old}\b", new, text).encode()


def rename_path(path: str, old: str, new: str) -> str:
    """Renames the folders of a package: src/<old> and tests/<old>."""
    return re.sub(rf"^(src|tests)/{old}/", rf"\1/{new}/", path)


def unlink(text: str, path: str, existing: Mapping[str, bytes]) -> str:
    """Replaces links of a page to files that do not exist in the project by their text; such images are removed."""

    def replaced(match: re.Match[str]) -> str:
        target = os.path.normpath(Path(path).parent / match[2])
        if target in existing or any(each.startswith(f"{target}/") for each in existing):
            return match[0]
        return "" if match[0].startswith("!") else match[1]

    prose_and_code = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in prose_and_code)


def formatted(contents: Contents, settings: bytes) -> Contents:
    """Sorts imports and formats Python files, since another name changes both; without ruff they stay as they are.

    settings: the content of pyproject.toml.
    """
    if find_spec("ruff") is None:
        return contents
    python = [path for path in contents if path.endswith(".py")]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_bytes(settings)
        for path in python:
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(contents[path])
        for command in (["check", "--quiet", "--fix", "--select", "I", "--exit-zero"], ["format", "--quiet"]):
            subprocess.run([sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=folder, check=True)
        return contents | {path: (Path(folder) / path).read_bytes() for path in python}


def check_name(name: str, template: Template, files: Iterable[str]) -> None:
    """Raises UserError for a name that cannot be that of a project's package.

    files: those that are renamed; none of them may use the name as a word already, since a later renaming could not
    tell the two apart.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name}: a name is lower-case letters, digits and _, and begins with a letter")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UserError(f"{name}: a word of Python's own")
    if name in sys.stdlib_module_names:
        raise UserError(f"{name}: a module of Python's standard library has this name")
    if name in OTHER_PACKAGES:
        raise UserError(f"{name}: a folder of the project has this name")
    installed = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    if name in dependencies(template.root) or PathFinder.find_spec(name, installed) is not None:
        raise UserError(f"{name}: an installed package has this name")
    if name == template.package:
        return
    word = re.compile(rf"\b{name}\b".encode())
    using = [
        path for path in files if (template.root / path).is_file() and word.search((template.root / path).read_bytes())
    ]
    if using:
        shown = ", ".join(using[:3]) + (f" and {len(using) - 3} more" if len(using) > 3 else "")
        raise UserError(f"{name}: the template uses this word already, in {shown}")


def dependencies(root: Path) -> set[str]:
    """The names of the packages in pyproject.toml, as modules are written."""
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[^A-Za-z0-9_.-]", each)[0].lower().replace("-", "_") for each in listed}
    return names | {"hydra", "PIL", "sklearn"}
