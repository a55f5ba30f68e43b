"""Changes one thing at a time in the clipping policies and counts which changes no test notices.

    python evidence/mutate.py                     every formula: some minutes
    python evidence/mutate.py adaptive.py         one file of src/gradclip/policies

Each mutant is a copy of the source with one operator, number, comparison or method exchanged; the tests of
exactness, ranges and configuration run on it until one fails. The survivors are named.
"""

import argparse
import ast
import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import checkout
from evidence.checkout import ROOT

POLICIES = Path("src/gradclip/policies")
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
METHODS = {"minimum": "maximum", "sqrt": "abs", "exp": "abs", "hypot": "maximum", "nanquantile": "nanmedian"}
TESTS = ["tests/gradclip/test_exactness.py", "tests/gradclip/test_fields.py", "tests/runner/test_config.py"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("files", nargs="*", help="files of src/gradclip/policies; all formulas by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many run at once; all cores by default")
    args = parser.parse_args(arguments)
    files = args.files or ["adaptive.py", "fixed.py", "spike.py", "weights.py", "base.py"]
    jobs = [(file, *mutant) for file in files for mutant in mutants((ROOT / POLICIES / file).read_text("utf-8"))]
    survived = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for (file, what, _), alive in zip(jobs, pool.map(survives, jobs), strict=True):
            survived += alive
            if alive:
                print(f"  {file}:{what}", flush=True)
    print(f"{len(jobs)} mutants, {survived} survived")
    return survived


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Where and what was changed, and the changed source: everything inside functions, and the defaults of fields."""
    tree = ast.parse(source)
    count = sum(1 for _ in ast.walk(tree))
    for number in range(count):
        changed = copy.deepcopy(tree)
        node = next(node for place, node in enumerate(ast.walk(changed)) if place == number)
        if what := mutate(node):
            yield f"{getattr(node, 'lineno', 0)} {what}", ast.unparse(changed)


def mutate(node: ast.AST) -> str | None:
    """Changes one node in place and says how; None where there is nothing to change."""
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not _in_type(node):
        before = ast.unparse(node)
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        before = ast.unparse(node)
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[call-overload]
    elif isinstance(node, ast.BoolOp):
        before = ast.unparse(node)
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.USub | ast.Not):
        before = ast.unparse(node)
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
        if isinstance(node.op, ast.Invert | ast.Not):
            node.operand = ast.UnaryOp(copy.copy(node.op), node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        before = ast.unparse(node)
        node.value = node.value + 1
    elif isinstance(node, ast.Attribute) and node.attr in METHODS:
        before = ast.unparse(node)
        node.attr = METHODS[node.attr]
    else:
        return None
    return f"{before}  ->  {ast.unparse(node)}"


def _in_type(node: ast.BinOp) -> bool:
    """`Tensor | float` is a type and no formula."""
    return isinstance(node.op, ast.BitOr) and all(
        isinstance(side, ast.Name | ast.Constant | ast.BinOp) for side in (node.left, node.right)
    )


def survives(job: tuple[str, str, str]) -> bool:
    """Whether all tests pass on a copy of the project with one file changed."""
    file, _, source = job
    with tempfile.TemporaryDirectory() as folder:
        copied = checkout.copy(Path(folder), checkout.files())
        (copied / POLICIES / file).write_text(source, "utf-8")
        command = [sys.executable, "-m", "pytest", *TESTS, "-x", "-n", "0", "-p", "no:cacheprovider"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=copied, env=environment, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
