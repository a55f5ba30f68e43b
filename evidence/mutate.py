"""Mutation testing of the clipping library: lists the mutants that no test kills.

    python evidence/mutate.py                                  every formula of src/gradclip/policies: a few minutes
    python evidence/mutate.py adaptive.py                      one of its files
    python evidence/mutate.py --engine --sample 150 --seed 0   everything else but functional.py: a random sample

Each mutant is a copy of the source in which one operator, number, comparison, condition, call or method was changed.
The tests run on it until one fails, which kills it; after three times the duration on the unchanged source it times
out. The formulas are tested by the tests of exactness, ranges and configuration, the engine by all tests of
tests/gradclip that start no other process.
"""

import argparse
import ast
import copy
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import checkout
from evidence.checkout import ROOT

GRADCLIP = Path("src/gradclip")
FORMULAS = ("adaptive.py", "fixed.py", "spike.py", "weights.py", "base.py")
NO_ENGINE = ("__init__.py", "functional.py")
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
METHODS = {
    "minimum": "maximum", "sqrt": "abs", "exp": "abs", "hypot": "maximum", "nanquantile": "nanmedian",
    "any": "all", "all": "any", "amax": "amin",
}  # fmt: skip
FORMULA_TESTS = ("tests/gradclip/test_exactness.py", "tests/gradclip/test_fields.py", "tests/runner/test_config.py")
TIMEOUT_FACTOR = 3  # a mutant's time limit, as a multiple of the duration on the unchanged source


class Mutant(NamedTuple):
    """A changed file. file: relative to the root. what: the line and the change. source: the changed text."""

    file: Path
    what: str
    source: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("files", nargs="*", help="files of src/gradclip/policies, with --engine of src/gradclip")
    parser.add_argument("--engine", action="store_true", help="change everything but the policies and functional.py")
    parser.add_argument("--sample", type=int, help="the number of mutants to test; all by default")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the sample")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="mutants that are tested in parallel; all cores by default"
    )
    args = parser.parse_args(arguments)
    folder = GRADCLIP if args.engine else GRADCLIP / "policies"
    files = [folder / name for name in args.files or (engine_files() if args.engine else FORMULAS)]
    chosen = sample([mutant for file in files for mutant in mutants(file)], args.sample, args.seed)
    tests = engine_tests() if args.engine else FORMULA_TESTS
    limit = TIMEOUT_FACTOR * seconds_unchanged(tests)
    print(f"{len(chosen)} mutants, at most {limit:.0f} s each", flush=True)
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(args.jobs) as pool:
        for mutant, outcome in zip(
            chosen, pool.map(partial(outcome_of, tests=tests, limit=limit), chosen), strict=True
        ):
            outcomes[outcome] += 1
            if outcome != "killed":
                print(f"  {outcome}: {mutant.file}:{mutant.what}", flush=True)
    print(f"{len(chosen)} mutants, {outcomes['survived']} survived, {outcomes['timed out']} timed out")
    return outcomes["survived"]


def engine_files() -> list[str]:
    return sorted(path.name for path in (ROOT / GRADCLIP).glob("*.py") if path.name not in NO_ENGINE)


def engine_tests() -> list[str]:
    """The test files of tests/gradclip that start no other process."""
    paths = sorted((ROOT / "tests" / "gradclip").glob("test_*.py"))
    chosen = [path for path in paths if not re.search(r"\b(subprocess|multiprocessing)\b", path.read_text("utf-8"))]
    return [str(path.relative_to(ROOT)) for path in chosen]


def sample(found: list[Mutant], size: int | None, seed: int) -> list[Mutant]:
    """Draws `size` of the mutants at random, and keeps their order; all of them for None."""
    if size is None or size >= len(found):
        return found
    return [found[index] for index in sorted(random.Random(seed).sample(range(len(found)), size))]


# -- the mutants


def mutants(file: Path) -> Iterator[Mutant]:
    """Yields every mutant of a file, without those of annotations, decorators and `strict=`, which change no result."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    nodes = list(ast.walk(tree))
    skipped = {id(node) for parent in nodes for part in _without_effect(parent) for node in ast.walk(part)}
    for number, node in enumerate(nodes):
        if id(node) not in skipped and mutate(copy.deepcopy(node)):
            changed = copy.deepcopy(tree)
            what = mutate(list(ast.walk(changed))[number])
            yield Mutant(file, f"{getattr(node, 'lineno', 0)} {what}", ast.unparse(changed))


def mutate(node: ast.AST) -> str | None:
    """Changes one node in place and returns a description of the change; None if nothing can be changed."""
    before = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""
    if isinstance(node, ast.If | ast.IfExp):
        before = ast.unparse(node.test)
        return f"if {before}  ->  if {ast.unparse(node.test)}" if _negate(node) else None
    changes = isinstance(node, ast.expr | ast.stmt) and (
        _swap(node) or _simplify(node) or _next_value(node) or _other_method(node)
    )
    return f"{before}  ->  {ast.unparse(node)}" if changes else None


def _negate(node: ast.If | ast.IfExp) -> bool:
    """Negates a condition that no other mutation changes, except `TYPE_CHECKING`."""
    if isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp) or ast.unparse(node.test) == "TYPE_CHECKING":
        return False
    node.test = ast.UnaryOp(ast.Not(), node.test)
    return True


def _swap(node: ast.expr | ast.stmt) -> bool:
    """Swaps an operator."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS and not _is_type(node):
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
        return True
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[call-overload]
        return True
    return False


def _simplify(node: ast.expr | ast.stmt) -> bool:
    """Removes a sign or a negation, or a call whose result is not used."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
        node.operand = ast.UnaryOp(copy.copy(node.op), node.operand)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        node.value = ast.Constant(None)
    else:
        return False
    return True


def _next_value(node: ast.expr | ast.stmt) -> bool:
    """Adds 1 to a number, and swaps True and False."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, int | float):
        return False
    node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    return True


def _other_method(node: ast.expr | ast.stmt) -> bool:
    if not isinstance(node, ast.Attribute) or node.attr not in METHODS:
        return False
    node.attr = METHODS[node.attr]
    return True


def _is_type(node: ast.BinOp | ast.AugAssign | ast.BoolOp) -> bool:
    """Whether an operator forms a type, as in `Tensor | float`."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.BitOr)
        and all(isinstance(side, ast.Name | ast.Constant | ast.BinOp) for side in (node.left, node.right))
    )


def _without_effect(node: ast.AST) -> Iterator[ast.AST]:
    """The annotations and decorators of a node, and the value of an argument `strict`."""
    if isinstance(node, ast.keyword) and node.arg == "strict":
        yield node.value
    for name in ("annotation", "returns"):
        if part := getattr(node, name, None):
            yield part
    yield from getattr(node, "decorator_list", [])


# -- the tests


def seconds_unchanged(tests: Sequence[str]) -> float:
    """The duration of the tests on the unchanged source; raises RuntimeError with their output if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        copied = checkout.copy(Path(folder), checkout.files())
        started = time.perf_counter()
        done = run_tests(copied, tests, None)
        if done.returncode != 0:
            raise RuntimeError(f"the tests fail on the unchanged source\n{done.stdout}{done.stderr}")
        return time.perf_counter() - started


def outcome_of(mutant: Mutant, tests: Sequence[str], limit: float) -> str:
    """Tests a copy of the project with the mutant: killed, survived, or timed out after `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        copied = checkout.copy(Path(folder), checkout.files())
        (copied / mutant.file).write_text(mutant.source, "utf-8")
        try:
            return "survived" if run_tests(copied, tests, limit).returncode == 0 else "killed"
        except subprocess.TimeoutExpired:
            return "timed out"


def run_tests(project: Path, tests: Sequence[str], limit: float | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", *tests, "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=limit
    )


if __name__ == "__main__":
    main()
