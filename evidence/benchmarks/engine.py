"""`clip()` by itself against torch's functions and timm's, and against the engine of an earlier commit."""

import argparse
import importlib
import math
import re
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import gradclip
from evidence.benchmarks.cases import Case, Shape, gradient_shapes
from evidence.benchmarks.measure import Work, in_turns, machine, milliseconds, ratio
from evidence.common import in_processes
from evidence.compare_policies import timm_agc
from evidence.contract import checkout
from evidence.pages import table
from evidence.processes import forget_peak, memory

HERE = "this checkout"
TORCH = "torch"
OF_VALUE = ("GPT 10 M", "LSTM 5 M", "200 of 32x32")
OF_AGC = ("GPT 10 M", "LSTM 5 M", "ResNet-18")
ORDERS = (1.0, 3.0, math.inf)
NEVER = 1e30  # a limit that nothing exceeds
Engine = Any  # the package gradclip of this checkout or of a commit


class Row(NamedTuple):
    """A comparison of a policy with a reference function, on some gradients. ours: the works, by engine."""

    policy: str
    gradients: str
    what: str
    reference: str
    theirs: Work
    ours: dict[str, Work]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=60, help="the number of measurements")
    parser.add_argument("--against", metavar="COMMIT", help="also measure the engine of this commit, in the same turns")
    parser.add_argument("--elements", type=int, default=10**8, help="the number of elements for the other p-norms")


def run(args: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        engines = {name: load(name, Path(folder)) for name in names(args.against)}
        parts = [
            policy_table(engines, args.turns),
            table(["gradients", f"`clip()` of a list, ms ({HERE})", "`named_parameters()`, ms", "module / list"],
                  [lookup_row(name, Case(found), args.turns) for name, found in shapes().items()]),
            norm_orders(engines, args.elements, max(args.turns // 10, 3)),
        ]  # fmt: skip
    return "\n\n".join([machine(), *parts])


def names(against: str | None) -> list[str]:
    """The names of the engines to measure, the earlier one first."""
    return [against, HERE] if against else [HERE]


def load(name: str, folder: Path) -> Engine:
    """Imports the package gradclip of a commit under another name, from a copy in a folder; or returns this one."""
    if name == HERE:
        return gradclip
    package = f"gradclip_{re.sub(r'[^0-9A-Za-z]', '_', name)}"
    source = checkout(name, folder / f"checkout of {package}") / "src" / "gradclip"
    source.rename(folder / package)
    for path in (folder / package).rglob("*.py"):
        path.write_text(re.sub(r"\bgradclip\b", package, path.read_text("utf-8")), "utf-8")
    sys.path.insert(0, str(folder))
    try:
        engine = importlib.import_module(package)
        importlib.import_module(f"{package}.clipper")
    finally:
        sys.path.remove(str(folder))
    return engine


def shapes() -> dict[str, list[Shape]]:
    """The shapes of the gradients, by model, and a list of many small ones."""
    return gradient_shapes(large=False) | {"2,000 of 16x16": [(16, 16)] * 2000}


# -- the policies


def policy_table(engines: dict[str, Engine], turns: int) -> str:
    """Makes the table of the policies at p = 2 and of `value`."""
    rows = []
    known = shapes()
    for name, found in known.items():
        case = Case(found)
        listed = norm_rows(case, engines, name)
        if name in OF_VALUE:
            listed += value_rows(case, engines, name)
        if name in OF_AGC:
            listed += agc_rows(case, engines, name)
        rows += [timed_row(row, case, turns) for row in listed]
        print(name, flush=True)
    half = Case(known["GPT 10 M"], torch.bfloat16)
    rows += [timed_row(row, half, turns) for row in norm_rows(half, engines, "GPT 10 M, bfloat16")]
    head = ["policy", "gradients", "", "against", *(f"{name}: ratio" for name in engines)]
    return table([*head, *(f"{name}, ms" for name in engines), "reference, ms"], sorted(rows, key=lambda row: row[0]))


def norm_rows(case: Case, engines: dict[str, Engine], name: str) -> list[Row]:
    found = []
    for what, limit in (("scales", 0.999 * case.norm()), ("nothing exceeds", 1e3 * case.norm())):
        ours = {label: clip(engine, case, engine.ClipByNorm(max=limit)) for label, engine in engines.items()}
        found.append(Row("norm", name, what, "`clip_grad_norm_`", case.torch_alone(limit), ours))
    return found


def value_rows(case: Case, engines: dict[str, Engine], name: str) -> list[Row]:
    found = []
    for what, limit in (("clamps", 0.02), ("nothing exceeds", 1.0)):
        ours = {label: clip(engine, case, engine.ClipByValue(max=limit)) for label, engine in engines.items()}
        theirs = partial(torch.nn.utils.clip_grad_value_, case.parameters, limit)
        found.append(Row("value", name, what, "`clip_grad_value_`", theirs, ours))
    return found


def agc_rows(case: Case, engines: dict[str, Engine], name: str) -> list[Row]:
    """AGC by unit against timm's; empty if timm is not installed."""
    try:
        theirs = timm_agc(case.parameters)
    except ImportError:
        print("timm is not installed: agc is skipped (pip install --no-deps timm)")
        return []
    ours = {label: clip(engine, case, agc(engine)) for label, engine in engines.items()}
    return [Row("agc", name, "scales", "timm's `adaptive_clip_grad`", theirs, ours)]


def agc(engine: Engine) -> Any:
    """AGC that clips the last layer, as timm does; earlier versions exclude that layer by default."""
    return engine.AGC(**({"exclude_last": False} if hasattr(engine.AGC, "exclude_last") else {}))


def clip(engine: Engine, case: Case, policy: Any) -> Work:
    """Makes a work that calls `clip()` on a list of parameters and reads nothing of its report."""
    work: Work = engine.Clipper(case.named, policy).clip
    return work


def timed_row(row: Row, case: Case, turns: int) -> list[str]:
    times = in_turns({**row.ours, TORCH: row.theirs}, turns, case.restore)
    ratios = [str(ratio(times, name, TORCH)) for name in row.ours]
    return [*row[:4], *ratios, *(milliseconds(times, name) for name in times)]


# -- a module instead of a list


def lookup_row(name: str, case: Case, turns: int) -> list[str]:
    """Measures the lookup of a module's parameters, each of which is in a submodule of its own."""
    module = nn.ModuleList(module_of(parameter) for parameter in case.parameters)
    policy = gradclip.ClipByNorm(max=NEVER)
    works: dict[str, Work] = {
        "list": clip(gradclip, case, policy),
        "module": gradclip.Clipper(module, policy).clip,
        "lookup": lambda: list(module.named_parameters()),
    }
    times = in_turns(works, turns, case.restore)
    return [name, milliseconds(times, "list"), milliseconds(times, "lookup"), str(ratio(times, "module", "list"))]


def module_of(parameter: nn.Parameter) -> nn.Module:
    module = nn.Module()
    module.weight = parameter
    return module


# -- other norms of many elements


def norm_orders(engines: dict[str, Engine], elements: int, turns: int) -> str:
    """Makes the table of p-norms of one gradient. Each peak of memory is measured in a new process."""
    rows = []
    given = one_parameter(elements)
    for p in ORDERS:
        theirs = norm_by_torch(given, p)
        for what, make in MAKERS.items():
            ours = {name: make(engine, given, p) for name, engine in engines.items()}
            times = in_turns({**ours, TORCH: theirs}, turns)
            peaks = [in_processes(added_memory, [(name, what, p, elements)])[0] for name in times]
            ratios = [str(ratio(times, name, TORCH)) for name in ours]
            measured = [milliseconds(times, name) for name in times]
            rows.append([f"{p:g}", what, *ratios, *measured, *(f"{peak:.0f}" for peak in peaks)])
        print(f"p = {p:g}", flush=True)
    head = ["p", f"{elements:,} elements", *(f"{name}: ratio" for name in engines)]
    head += [*(f"{name}, ms" for name in (*engines, TORCH)), *(f"{name}, MB more" for name in (*engines, TORCH))]
    return table(head, rows)


def one_parameter(elements: int) -> nn.Parameter:
    """Makes a parameter and its gradient without a temporary copy, whose memory a later allocation could reuse."""
    parameter = nn.Parameter(torch.empty(elements))
    parameter.grad = torch.empty(elements).normal_(generator=torch.Generator().manual_seed(1))
    return parameter


def norm_by_torch(given: nn.Parameter, p: float) -> Work:
    assert given.grad is not None
    return partial(torch.nn.utils.get_total_norm, [given.grad], p)


def norm_alone(engine: Engine, given: nn.Parameter, p: float) -> Work:
    return partial(importlib.import_module(f"{engine.__name__}.norms").tensor_norms, [given.grad], p)


def whole_clip(engine: Engine, given: nn.Parameter, p: float) -> Work:
    work: Work = engine.Clipper([("weight", given)], engine.ClipByNorm(max=NEVER, norm_type=p)).clip
    return work


MAKERS = {"the norm alone": norm_alone, "`clip()`, which takes the 2-norm too": whole_clip}


def added_memory(job: tuple[str, str, float, int]) -> float:
    """The MiB by which a norm raises this process's peak memory. job: engine, key of MAKERS, p, elements."""
    name, what, p, elements = job
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make = norm_by_torch if name == TORCH else partial(MAKERS[what], load(name, Path(folder)))
        make(one_parameter(20), p)()  # warm-up
        work = make(one_parameter(elements), p)
        forget_peak()
        start = memory("VmHWM") or 0.0
        work()
        return (memory("VmHWM") or 0.0) - start
