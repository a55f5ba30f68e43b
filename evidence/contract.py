"""Compares the observable behaviour of two commits: `python evidence/contract.py A B`.

Both are checked out into temporary folders, and the commands of evidence/behaviour/cases.py run in each, on this
machine and with this interpreter. Prints the observations and the differences; evidence/contract_expected.json explains
the intended ones. The exit status is 1 if a difference is unexplained.
"""

import argparse
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from evidence.behaviour import cases, observe
from evidence.behaviour.cases import Case

ROOT = Path(__file__).parents[1]
EXPECTED = ROOT / "evidence" / "contract_expected.json"
ABSENT = "absent"
WIDTH = 100  # characters of a printed value
NAMED = 6  # cases that are named per difference
Observations = dict[str, dict[str, str]]  # case -> field -> value


@dataclass(frozen=True)
class Difference:
    """A field of a case in which two commits differ."""

    case: str
    field: str
    before: str
    after: str


@dataclass(frozen=True)
class Expected:
    """An intended difference: glob patterns of its four fields (`[` is written `[[]`), and its reason."""

    case: str
    field: str
    reason: str
    before: str = "*"
    after: str = "*"

    def explains(self, difference: Difference) -> bool:
        return all(fnmatchcase(value, getattr(self, name)) for name, value in asdict(difference).items())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("before", metavar="A", help="a commit, branch or tag of this repository")
    parser.add_argument("after", metavar="B", help="the commit that is compared with it")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="the cases to run, such as 'wrong/*'")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="writes the observations of both as a.json, b.json")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="reads observations from here, and adds new ones")
    parser.add_argument("--jobs", type=int, default=2, help="cases that run in parallel (2)")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help="the intended differences, with reasons")
    args = parser.parse_args(arguments)
    expected = [Expected(**entry) for entry in json.loads(args.expected.read_text(encoding="utf-8"))]
    before, after = (observations(commit, args.only, args.jobs, args.cache) for commit in (args.before, args.after))
    for name, found in (("a", before), ("b", after)) if args.keep else ():
        args.keep.mkdir(parents=True, exist_ok=True)
        (args.keep / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return report(before, after, expected)


def observations(commit: str, only: str, jobs: int, cache: Path | None) -> Observations:
    """Observes every case whose name matches `only`, or reads it from the cache."""
    resolved = git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    stored = cache / f"{resolved}-{fingerprint()}.json" if cache else None
    known: Observations = json.loads(stored.read_text(encoding="utf-8")) if stored and stored.exists() else {}
    with tempfile.TemporaryDirectory(prefix="contract-") as name:
        folder = Path(name).resolve()
        project = checkout(resolved, folder / "project")
        wanted = [case for case in cases.cases(project) if fnmatchcase(case.name, only)]
        missing = [case for case in wanted if case.name not in known]
        known |= run_all(missing, project, folder / "cases", jobs)
    if stored and missing:
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return {case.name: known[case.name] for case in wanted}


def checkout(commit: str, folder: Path) -> Path:
    """Extracts the files of a commit into a new folder."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_all(wanted: Sequence[Case], checkout: Path, folder: Path, jobs: int) -> Observations:
    """Runs the cases, each in a numbered folder, so that all their paths have the same length."""
    folders = [folder / f"{number:03}" for number in range(len(wanted))]
    with ThreadPoolExecutor(jobs) as pool:
        observed = pool.map(lambda case, path: observe.observe(case, checkout, path), wanted, folders)
        return {case.name: fields for case, fields in zip(wanted, observed, strict=True)}


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout


def fingerprint() -> str:
    """A hash of what observations depend on besides the commit: the cases, how they are observed, and the versions."""
    digest = hashlib.sha256(f"{platform.node()} {sys.version} {torch.__version__}".encode())
    for name in ("cases.py", "observe.py"):
        digest.update((ROOT / "evidence" / "behaviour" / name).read_bytes())
    return digest.hexdigest()[:12]


def differences(before: Observations, after: Observations) -> list[Difference]:
    """Lists every field that differs; a case that only one of the commits has is one difference."""
    found: list[Difference] = []
    for case in before | after:
        if case not in before or case not in after:
            found.append(Difference(case, "case", *("present" if case in side else ABSENT for side in (before, after))))
            continue
        for field in before[case] | after[case]:
            one, other = (side[case].get(field, ABSENT) for side in (before, after))
            if one != other:
                found.append(Difference(case, field, one, other))
    return found


def report(before: Observations, after: Observations, expected: Sequence[Expected]) -> int:
    """Prints the observations and the differences; returns the exit status."""
    for case in before | after:
        lines = [line_of(case, side[case]) for side in (before, after) if case in side]
        print("\n".join(dict.fromkeys(lines)))
    found = differences(before, after)
    explained: dict[str, list[Difference]] = {}
    unexplained: list[Difference] = []
    for difference in found:
        entry = next((entry for entry in expected if entry.explains(difference)), None)
        (unexplained if entry is None else explained.setdefault(entry.reason, [])).append(difference)
    for reason, group in explained.items():
        print(f"\nexplained: {reason}")
        print("\n".join(grouped(group)))
    if unexplained:
        print("\nUNEXPLAINED")
        print("\n".join(grouped(unexplained)))
    differ, open_ = (len({difference.case for difference in group}) for group in (found, unexplained))
    print(f"\n{len(before | after)} cases, {differ} differ, {open_} of them without an explanation")
    return 1 if unexplained else 0


def line_of(case: str, fields: dict[str, str]) -> str:
    """Formats a case as one line: its exit statuses, and the first line of its message, run status or output."""
    codes, *texts = (
        [value for field, value in fields.items() if field.endswith(kind) and value not in ("", observe.HIDDEN)]
        for kind in ("exit", "message", "status", "output")
    )
    first_line = next((values[-1].splitlines()[0] for values in texts if values), "")
    return f"{case:56}  {' '.join(codes):9}  {short(first_line)}".rstrip()


def grouped(found: Iterable[Difference]) -> list[str]:
    """Formats differences as `case: field: before -> after`, one line for all cases with the same difference."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in found:
        groups.setdefault((item.field, item.before, item.after), []).append(item.case)
    lines: list[str] = []
    for (field, one, other), names in groups.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"{', '.join(names[:NAMED])}{more}: {field}: {change(one, other)}")
    return lines


def change(before: str, after: str) -> str:
    """Formats `before -> after`; long texts start shortly before the first character that differs."""
    same = next((at for at, pair in enumerate(zip(before, after, strict=False)) if len(set(pair)) > 1), 0)
    start = max(same - 20, 0) if max(len(before), len(after)) > WIDTH else 0
    return " -> ".join(short(("…" if start else "") + text[start:]) for text in (before, after))


def short(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


if __name__ == "__main__":
    sys.exit(main())
