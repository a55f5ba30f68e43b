"""Replaces gradclip, runner and their tests by those of a newer template: `python scripts/update_project.py FROM`.

FROM is a checkout of the template, or an archive of one (.zip, .tar.gz). If this project has changed a file that would
be replaced, nothing is. A changed file that the template has not changed is kept. The tests run afterwards.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for other modules of scripts
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, UserError, one_line_errors
from scripts.template import RECORD, Contents, Record, Template, check_clean, commit_of, digest

ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Replaces gradclip, runner and their tests by those of a newer template.")
    parser.add_argument("source", metavar="FROM", type=Path, help="a checkout or an archive of the newer template")
    parser.add_argument("--no-tests", action="store_true", help="do not run the tests afterwards")
    args = parser.parse_args(arguments)
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        template = Template.read(unpacked(args.source.expanduser(), Path(folder)))
        record = Record.read(ROOT)
        if record is None:
            raise UserError(f"{ROOT}: not a project; it has no {RECORD}")
        if Record.read(template.root) is not None:
            raise UserError(f"{args.source}: a project that was made from the template, not the template")
        check_clean(ROOT)
        update(template, record)
    if not args.no_tests:
        sys.exit(subprocess.run([sys.executable, "-m", "pytest"], cwd=ROOT, check=False).returncode)


def unpacked(source: Path, folder: Path) -> Path:
    """The folder of a template; an archive is unpacked into the given folder. Raises UserError."""
    if source.is_dir():
        return source.absolute()
    if not source.is_file():
        raise UserError(f"{source}: no such checkout or archive")
    try:
        shutil.unpack_archive(source, folder, filter=None if source.suffix == ".zip" else "data")
    except (shutil.ReadError, ValueError, OSError) as error:
        raise UserError(f"{source}: not an archive of a template ({error})") from None
    found = sorted(folder.rglob("scripts/template.toml"))
    if not found:
        raise UserError(f"{source}: not an archive of a template; it has no scripts/template.toml")
    return found[0].parents[1]


@dataclass
class Change:
    """What an update does to the project's files, by path.

    conflicts: files that both the project and the template have changed. kept: those that only the project has.
    """

    added: list[str]
    replaced: list[str]
    deleted: list[str]
    conflicts: list[str]
    kept: list[str]


def update(template: Template, record: Record) -> None:
    """Replaces the files and rewrites the record. Raises UserError, before it changes anything."""
    files = [path for path in template.for_project(slim=False) if template.is_updated(path)]
    new = template.contents(files, record.package)
    change = compare(new, record)
    if change.conflicts:
        raise UserError(
            f"nothing was replaced, since these files were changed in this project: {', '.join(change.conflicts)}; "
            "take your changes elsewhere, or undo them, and update again"
        )
    for path in change.deleted:
        (ROOT / path).unlink()
    for path in [*change.added, *change.replaced]:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(new[path])
    digests = {path: digest(content) for path, content in new.items()}
    updated = vars(record) | {"version": template.version, "commit": commit_of(template.root), "files": digests}
    (ROOT / RECORD).write_bytes(Record(**updated).text())
    for word, paths in (("added", change.added), ("replaced", change.replaced), ("deleted", change.deleted),
                        ("kept", change.kept)):  # fmt: skip
        print(*(f"{word:<9}{path}" for path in paths), sep="\n", end="\n" if paths else "")
    print(f"{record.version} -> {template.version}: {len(change.added)} added, {len(change.replaced)} replaced, "
          f"{len(change.deleted)} deleted")  # fmt: skip
    for key in template.changed_keys:
        if numbers(key["version"]) > numbers(record.version):
            print(f"key changed since {record.version}: {key['old']}: {key['new']}")


def compare(new: Contents, record: Record) -> Change:
    """Compares the project's files with the new ones, and with those that it once got."""
    change = Change([], [], [], [], [])
    for path in sorted({*new, *record.files}):
        old = (ROOT / path).read_bytes() if (ROOT / path).is_file() else None
        if old == new.get(path):
            continue
        if (None if old is None else digest(old)) != (recorded := record.files.get(path)):
            unchanged = path in new and digest(new[path]) == recorded
            (change.kept if unchanged else change.conflicts).append(path)
        elif old is None:
            change.added.append(path)
        elif path in new:
            change.replaced.append(path)
        else:
            change.deleted.append(path)
    return change


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, which compare as versions do."""
    return tuple(int(part) for part in version.split("."))


if __name__ == "__main__":
    main()
