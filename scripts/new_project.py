"""Makes a project of your own from this template: `python scripts/new_project.py NAME`; with --here, in place.

Its package gets the project's name; gradclip and runner keep theirs. .template.json records the template's version,
with which `make update` takes a newer one.
"""

import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for other modules of scripts
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, UserError, one_line_errors
from scripts.template import (
    RECORD,
    Contents,
    Record,
    Template,
    check_clean,
    check_name,
    commit_of,
    digest,
    rename,
    rename_path,
)

ROOT = Path(__file__).parents[1]
PAGE = "scripts/project_readme.md"
DISTRIBUTION = "gradclip-template"
NOT_COMMITTED = ", not committed: git has no user.name and user.email; set them, then git add -A && git commit"
DESCRIPTION = "A PyTorch training project, made from gradclip-template."


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Makes a project of your own from this template.")
    parser.add_argument("name", help="the name of the project and its package, in lower case")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dir", type=Path, help="the project's folder; by default ../NAME beside this checkout")
    where.add_argument("--here", action="store_true", help="rename this checkout in place instead")
    parser.add_argument("--slim", action="store_true", help="one model, data set, optimizer and experiment only")
    args = parser.parse_args(arguments)
    with one_line_errors():
        if args.here:
            rename_here(args.name, slim=args.slim)
        else:
            create(args.name, args.dir or ROOT.parent / args.name, slim=args.slim)


def create(name: str, folder: Path, *, slim: bool) -> None:
    """Writes a new project into a folder that is missing or empty. Raises UserError, before it writes anything."""
    template = Template.read(ROOT)
    if Record.read(ROOT) is not None:
        raise UserError(f"{ROOT}: a project, not the template; make rename NAME={name} renames it")
    files = template.for_project(slim=slim)
    check_name(name, template, files)
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists, and is not an empty folder")
    contents = project(template, name, slim=slim)
    try:
        write(contents, folder)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written ({error.strerror})") from None
    committed = commit(folder, f"Start {name} from {DISTRIBUTION} {template.version}")
    environment = ROOT / ".venv"
    shared = f" VENV={environment}" if environment.exists() else ""
    print(f"{folder}: {len(contents)} files{'' if committed else NOT_COMMITTED}\ncd {folder} && make train{shared}")


def rename_here(name: str, *, slim: bool) -> None:
    """Turns this checkout into a project, or renames it if it is one. Raises UserError, before it changes anything."""
    template, record = Template.read(ROOT), Record.read(ROOT)
    check_clean(ROOT)
    before = template.files()
    if record is None:
        check_name(name, template, template.for_project(slim=slim))
        contents = project(template, name, slim=slim)
    elif slim:
        raise UserError(f"--slim: {record.package} was made already; docs/shrinking.md says what can be removed")
    else:
        template.package = record.package
        check_name(name, template, before)
        contents = template.contents(before, name)
        old, new = (each.replace("_", "-").encode() for each in (record.package, name))
        contents["pyproject.toml"] = contents["pyproject.toml"].replace(old, new)
        contents[RECORD] = renamed_record(record, contents, name).text()
    for path in before:
        if path not in contents:
            (ROOT / path).unlink()
    write(contents, ROOT)
    for folder in sorted({parent for path in before for parent in Path(path).parents}, reverse=True):
        if (ROOT / folder).is_dir():
            shutil.rmtree(ROOT / folder / "__pycache__", ignore_errors=True)
            if not any((ROOT / folder).iterdir()):
                (ROOT / folder).rmdir()
    print(f"{ROOT}: renamed to {name}; look at it with git status, then git add -A && git commit")


def renamed_record(record: Record, contents: Contents, name: str) -> Record:
    """The record of a project that was renamed. contents: its files under the new name.

    A file that was changed since the project got it keeps its old digest, which shows that it was.
    """
    files = {}
    for path, recorded in record.files.items():
        old, new = ROOT / path, rename_path(path, record.package, name)
        kept = old.is_file() and digest(old.read_bytes()) == recorded
        files[new] = digest(contents[new]) if kept else recorded
    return Record(**(vars(record) | {"package": name, "files": files}))


def project(template: Template, name: str, *, slim: bool) -> Contents:
    """All files of a new project, with a README, a licence and a pyproject.toml of its own."""
    files = template.for_project(slim=slim)
    contents = template.contents(files, name)
    contents["README.md"] = rename((template.root / PAGE).read_bytes(), template.package, name)
    contents["CHANGELOG.md"] = (
        f"# Changelog\n\n## 0.1.0\n\n- Made from version {template.version} of its template.\n".encode()
    )
    contents["LICENSE"] = re.sub(
        rb"(Copyright \(c\) .*)",
        rf"Copyright (c) {date.today().year} The {name} authors\n\1".encode(),
        contents["LICENSE"],
        count=1,
    )
    settings = contents["pyproject.toml"].decode().replace(DISTRIBUTION, name.replace("_", "-"))
    settings = re.sub(r'^version = ".*"$', 'version = "0.1.0"', settings, count=1, flags=re.MULTILINE)
    settings = re.sub(r'^description = ".*"$', f'description = "{DESCRIPTION}"', settings, count=1, flags=re.MULTILINE)
    contents["pyproject.toml"] = settings.encode()
    contents[RECORD] = Record(
        version=template.version,
        commit=commit_of(template.root),
        package=name,
        left_out=sorted(set(template.for_project(slim=False)) - set(files)),
        files={rename_path(path, template.package, name): digest(contents[rename_path(path, template.package, name)])
               for path in files if template.is_updated(path)},
    ).text()  # fmt: skip
    return contents


def write(contents: Contents, folder: Path) -> None:
    """Writes files into a folder. An executable file of the template stays one."""
    for path, content in contents.items():
        target = folder / path
        if target.is_file() and target.read_bytes() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if (ROOT / path).is_file() and os.access(ROOT / path, os.X_OK):
            target.chmod(0o755)


def commit(folder: Path, message: str) -> bool:
    """Makes the folder a git repository with one commit; without it if git has no name and address for its author."""
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    known = all(subprocess.run([*git, "config", f"user.{key}"], capture_output=True, check=False).returncode == 0
                for key in ("name", "email"))  # fmt: skip
    return known and subprocess.run([*git, "commit", "--quiet", "-m", message], check=False).returncode == 0


if __name__ == "__main__":
    main()
