"""Projects made from the template: their files, refused names, renaming and updating; slow tests run their tests."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from evidence import checkout
from evidence.checkout import ROOT
from scripts.template import Template

NAME = "my_project"
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH", "GIT_"))
}
OTHER_LIBRARIES = ("src/gradclip/integrations", "tests/gradclip/test_integrations.py", "src/gradclip/README.md")
GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]


def run(folder: Path, *command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=folder, env=ENVIRONMENT | (env or {}),
                          capture_output=True, text=True, check=False)  # fmt: skip


def python(folder: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """Runs a script of a folder, and returns what it printed; on status 2 the one line of the error."""
    done = run(folder, sys.executable, *arguments, env=env)
    assert done.returncode in (0, 2), done.stderr
    assert done.returncode == 0 or done.stderr.count("\n") == 1
    return done.stdout if done.returncode == 0 else done.stderr


def commit_all(folder: Path) -> None:
    assert run(folder, *GIT, "add", "--all").returncode == 0
    assert run(folder, *GIT, "commit", "-q", "-m", "x").returncode == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, as a repository with one commit."""
    folder = checkout.copy(tmp_path_factory.mktemp("made") / "template", checkout.files())
    run(folder, "git", "init", "-q", "-b", "main")
    commit_all(folder)
    return folder


@pytest.fixture(scope="module")
def made(template: Path) -> Path:
    """A full project."""
    folder = template.parent / "full"
    assert "files" in python(template, "scripts/new_project.py", NAME, "--dir", folder, env=author())
    return folder


@pytest.fixture(scope="module")
def slim(template: Path) -> Path:
    """A slim project."""
    folder = template.parent / "slim"
    python(template, "scripts/new_project.py", NAME, "--dir", folder, "--slim", env=author())
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the full project, to change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def author() -> dict[str, str]:
    """The environment in which git knows an author."""
    return {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "A",
             "GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "a@example.org"}  # fmt: skip


def files(folder: Path) -> set[str]:
    return set(run(folder, "git", "ls-files").stdout.splitlines())


# a new project


def test_the_package_has_the_projects_name_everywhere(made: Path) -> None:
    found = files(made)
    assert f"src/{NAME}/loop.py" in found
    assert f"tests/{NAME}/test_loop.py" in found
    elsewhere = [f":!{path}" for path in OTHER_LIBRARIES]
    assert not run(made, "git", "grep", "-w", "trainer", "--", ".", *elsewhere).stdout
    assert not [path for path in found if path.startswith(("evidence/", "docs/decisions"))]
    assert [path for path in found if path.startswith("outputs/")] == ["outputs/.gitkeep"]


def test_the_readme_licence_and_settings_are_the_projects(made: Path) -> None:
    assert (made / "README.md").read_text(encoding="utf-8").startswith(f"# {NAME}\n")
    assert re.search(rf"^Copyright \(c\) \d+ The {NAME} authors$", (made / "LICENSE").read_text(), re.MULTILINE)
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == ("my-project", "0.1.0")
    assert run(made, "git", "log", "--format=%an %s").stdout.startswith(f"A Start {NAME} from gradclip-template ")
    assert run(made, "git", "status", "--porcelain").stdout == ""
    record = json.loads((made / ".template.json").read_text())
    assert (record["package"], record["left_out"]) == (NAME, [])
    assert "src/runner/errors.py" in record["files"]
    assert not any(path.startswith(f"src/{NAME}") for path in record["files"])


def test_no_link_of_a_page_is_broken_and_code_stays(made: Path, template: Path) -> None:
    for page in made.rglob("*.md"):
        parts = re.split(r"(^```.*?^```$)", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        if (template / page.relative_to(made)).is_file() and page.name != "README.md":
            original = (template / page.relative_to(made)).read_text(encoding="utf-8")
            blocks = re.findall(r"^```.*?^```$", original, re.DOTALL | re.MULTILINE)
            for part, block in zip(parts[1::2], blocks, strict=True):  # imports are sorted by the new name
                assert sorted(part.replace(NAME, "trainer").splitlines()) == sorted(block.splitlines())
                if part.startswith("```python") and page.parent.name == "docs":
                    checked = subprocess.run([sys.executable, "-m", "ruff", "check", "--select", "I", "-"], cwd=made,
                                             input=part[len("```python\n") : -3], text=True, check=False)  # fmt: skip
                    assert checked.returncode == 0, part
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", "".join(parts[::2])):
            assert (page.parent / target).exists(), f"{page.relative_to(made)}: {target}"


def test_no_page_speaks_of_the_templates_own_files_and_history(made: Path) -> None:
    for page in [*made.glob("*.md"), *(made / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search("evidence|template only", text), page.relative_to(made)
    assert (made / "CHANGELOG.md").read_text(encoding="utf-8").startswith("# Changelog\n\n## 0.1.0\n")


def test_the_checks_of_a_project_pass(made: Path) -> None:
    for tool in (["ruff", "format", "--check", "."], ["ruff", "check", "."]):
        done = run(made, sys.executable, "-m", *tool)
        assert done.returncode == 0, done.stdout
    done = run(made, Path(sys.executable).parent / "lint-imports", "--no-cache", env={"PYTHONPATH": "src"})
    assert done.returncode == 0, done.stdout


def test_a_name_of_twenty_letters_passes_the_checks(template: Path, tmp_path: Path) -> None:
    python(template, "scripts/new_project.py", "abcdefghij_klmnopqrs", "--dir", tmp_path / "made", env=author())
    for tool in (["ruff", "format", "--check", "."], ["ruff", "check", "."]):
        done = run(tmp_path / "made", sys.executable, "-m", *tool)
        assert done.returncode == 0, done.stdout


def test_a_slim_project_has_one_option_of_each_group(slim: Path) -> None:
    for group, kept in Template.read(ROOT).slim.items():
        assert sorted(path.stem for path in (slim / "conf" / group).glob("*.yaml")) == kept
    assert len(list((slim / "conf" / "clip").glob("*.yaml"))) >= 15
    left_out = json.loads((slim / ".template.json").read_text())["left_out"]
    assert "conf/model/lstm.yaml" in left_out
    assert "src/trainer/optimizers/adam.py" in left_out


def test_a_project_trains(made: Path, slim: Path, tmp_path: Path) -> None:
    """Both from one environment, which this test runs in."""
    for folder in (made, slim):
        outputs = f"hydra.run.dir={tmp_path}/{folder.name}"
        printed = python(folder, "train.py", "steps=3", "evaluate_every=3", "data.sample=0", outputs)
        assert str(tmp_path / folder.name) in printed


def test_without_an_author_nothing_is_committed(template: Path, tmp_path: Path) -> None:
    nobody = {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "XDG_CONFIG_HOME": str(tmp_path)}
    printed = python(template, "scripts/new_project.py", NAME, "--dir", tmp_path / "made", env=nobody)
    assert "not committed: git has no user.name and user.email" in printed
    assert run(tmp_path / "made", "git", "log").returncode != 0
    assert (tmp_path / "made" / "train.py").is_file()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class", "a word of Python's own"),
        ("match", "a word of Python's own"),
        ("random", "a module of Python's standard library has this name"),
        ("torch", "an installed package has this name"),
        ("hydra", "an installed package has this name"),
        ("pytest", "an installed package has this name"),
        ("runner", "a folder of the project has this name"),
        ("model", "the template uses this word already, in "),
        ("My-Project", "a name is lower-case letters, digits and _"),
        ("2nd", "a name is lower-case letters, digits and _"),
    ],
)
def test_a_wrong_name_is_refused_and_nothing_is_written(template: Path, tmp_path: Path, name: str, reason: str) -> None:
    printed = python(template, "scripts/new_project.py", name, "--dir", tmp_path / "made")
    assert printed.startswith(f"error: {name}: {reason}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_refused(template: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    printed = python(template, "scripts/new_project.py", NAME, "--dir", tmp_path)
    assert printed == f"error: {tmp_path}: exists, and is not an empty folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# renaming in place


def test_the_template_is_renamed_in_place_and_again_later(template: Path, made: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert run(tmp_path, "git", "clone", "-q", template, here).returncode == 0
    python(here, "scripts/new_project.py", "first_name", "--here")
    commit_all(here)
    python(here, "scripts/new_project.py", NAME, "--here")
    commit_all(here)
    assert files(here) == files(made)
    for path in files(here) - {".template.json", "LICENSE"}:
        assert (here / path).read_bytes() == (made / path).read_bytes(), path
    mine, theirs = (json.loads((folder / ".template.json").read_text()) for folder in (here, made))
    assert mine["files"] == theirs["files"]


def test_a_checkout_with_changes_is_not_renamed(copy: Path) -> None:
    (copy / "train.py").write_text("# mine\n")
    before = run(copy, "git", "status", "--porcelain").stdout
    assert "commit your changes first" in python(copy, "scripts/new_project.py", "other_name", "--here")
    assert run(copy, "git", "status", "--porcelain").stdout == before


# updating


@pytest.fixture
def newer(template: Path, tmp_path: Path) -> Path:
    """A later template: one file of the runner is changed, one added, one removed; a key is renamed."""
    folder = Path(shutil.copytree(template, tmp_path / "newer"))
    settings = folder / "scripts" / "template.toml"
    text = re.sub(r'^version = ".*"', 'version = "9.0.0"', settings.read_text(), count=1, flags=re.MULTILINE)
    settings.write_text(text + '\n[[changed_keys]]\nversion = "9.0.0"\nold = "steps"\nnew = "max_steps"\n')
    with (folder / "src" / "runner" / "errors.py").open("a") as file:
        file.write("# newer than the trainer of old\n")
    (folder / "src" / "runner" / "added.py").write_text('"""Added."""\n')
    (folder / "tests" / "runner" / "test_pictures.py").unlink()
    (folder / "src" / "trainer" / "loop.py").write_text("raise SystemExit\n")  # the project's own, which stays
    commit_all(folder)
    return folder


@pytest.mark.parametrize("source", ["checkout", "tar.gz", "zip"])
def test_an_update_replaces_what_the_template_owns(copy: Path, newer: Path, tmp_path: Path, source: str) -> None:
    place = newer
    if source != "checkout":
        place = tmp_path / f"archive.{source}"
        assert run(newer, "git", "archive", "--prefix=template-9/", "-o", place, "HEAD").returncode == 0
    loop = (copy / "src" / NAME / "loop.py").read_bytes()
    printed = python(copy, "scripts/update_project.py", place, "--no-tests").splitlines()
    assert [line.split() for line in printed[:4]] == [
        ["added", "src/runner/added.py"],
        ["replaced", "scripts/template.toml"],
        ["replaced", "src/runner/errors.py"],
        ["deleted", "tests/runner/test_pictures.py"],
    ]
    assert printed[4].endswith(" -> 9.0.0: 1 added, 2 replaced, 1 deleted")
    changed = f"key changed since {Template.read(ROOT).version}: steps: max_steps"
    assert printed[5:] == [changed]
    assert f"# newer than the {NAME} of old" in (copy / "src" / "runner" / "errors.py").read_text()
    assert (copy / "src" / NAME / "loop.py").read_bytes() == loop
    commit_all(copy)
    assert "0 added, 0 replaced, 0 deleted" in python(copy, "scripts/update_project.py", place, "--no-tests")
    assert run(copy, "git", "status", "--porcelain").stdout == ""


def test_an_update_refuses_files_that_were_changed_here(copy: Path, newer: Path) -> None:
    for path in ("src/runner/errors.py", "src/runner/config.py", "tests/runner/test_pictures.py"):
        with (copy / path).open("a") as file:
            file.write("# mine\n")
    (copy / "src" / "runner" / "added.py").write_text("# mine\n")
    commit_all(copy)
    printed = python(copy, "scripts/update_project.py", newer, "--no-tests")
    changed = ["src/runner/added.py", "src/runner/errors.py", "tests/runner/test_pictures.py"]
    assert f"changed in this project: {', '.join(changed)}; " in printed
    assert run(copy, "git", "status", "--porcelain").stdout == ""


def test_an_update_keeps_a_changed_file_that_the_template_has_not_changed(copy: Path, newer: Path) -> None:
    with (copy / "src" / "runner" / "config.py").open("a") as file:
        file.write("# mine\n")
    commit_all(copy)
    for version in ("9.0.0", "9.1.0"):
        settings = newer / "scripts" / "template.toml"
        settings.write_text(
            re.sub(r'^version = ".*"', f'version = "{version}"', settings.read_text(), flags=re.MULTILINE)
        )
        printed = python(copy, "scripts/update_project.py", newer, "--no-tests")
        assert "kept     src/runner/config.py\n" in printed
        assert f" -> {version}: " in printed
        commit_all(copy)
    assert (copy / "src" / "runner" / "config.py").read_text().endswith("# mine\n")
    assert "# newer than" in (copy / "src" / "runner" / "errors.py").read_text()


def test_an_update_needs_a_clean_project_and_a_template(copy: Path, newer: Path, made: Path) -> None:
    assert "a project that was made from the template" in python(copy, "scripts/update_project.py", made, "--no-tests")
    assert "a project that was made from the template" in python(copy, "scripts/update_project.py", ".", "--no-tests")
    (copy / "train.py").write_text("# mine\n")
    assert "commit your changes first" in python(copy, "scripts/update_project.py", newer, "--no-tests")
    assert run(copy, "git", "status", "--porcelain").stdout == " M train.py\n"


def test_make_names_what_is_missing(copy: Path) -> None:
    for target, words in (("update", "FROM is missing"), ("new", "NAME is missing"), ("rename", "NAME is missing")):
        done = run(copy, "make", target, f"VENV={Path(sys.executable).parents[1]}")
        assert done.returncode == 2
        assert words in done.stderr
    done = run(copy, "make", "rename", "NAME=my project", f"VENV={Path(sys.executable).parents[1]}")
    assert "my project: a name is lower-case letters" in done.stderr


def test_what_is_no_template_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("text")
    for source, reason in (("missing", "no such checkout or archive"), ("empty", "not a template"),
                           ("text.zip", "not an archive of a template")):  # fmt: skip
        printed = python(copy, "scripts/update_project.py", tmp_path / source, "--no-tests")
        assert printed.startswith("error: ")
        assert reason in printed


def test_the_template_itself_is_not_updated(template: Path) -> None:
    assert "not a project" in python(template, "scripts/update_project.py", template, "--no-tests")


# what takes minutes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["made", "slim"])
def test_a_projects_own_checks_and_tests_pass(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    for command in (["-m", "mypy", "src", "scripts", "train.py", "tests"], ["-m", "pytest", "-p", "no:cacheprovider"]):
        done = run(folder, sys.executable, *command)
        assert done.returncode == 0, done.stdout[-3000:]
