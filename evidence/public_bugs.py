"""Runs short reproductions of errors in public clipping code, and writes evidence/docs/public_bugs.md.

    pip install zclip autoclip pytorch_optimizer                               (in a separate environment)
    pip install agc-optims smartclip AdamWClip
    pip install --no-deps nfnets-pytorch                                       (without torchvision)
    pip install --no-deps --target older pytorch_optimizer==3.11.0             (a version from before some fixes)
    python evidence/public_bugs.py --older older

The code on the page is the code that ran. An error is "reproduced" if a package's answer is the described wrong one,
and "not reproduced" if it is the right one. Next to it is the answer of gradclip for the same gradients.
"""

import importlib.metadata
import json
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages

PAGE = pages.DOCS / "public_bugs.md"

BEFORE = """\
import gradclip, torch
from math import inf, nan
from {functions} import clip_grad_norm_, clip_grad_value_

torch.set_num_threads(1)


def leaf(*gradient, weights=None, dtype=None):
    grad = torch.tensor(gradient, dtype=dtype)
    w = torch.nn.Parameter(torch.zeros_like(grad) if weights is None else torch.tensor(weights, dtype=dtype))
    w.grad = grad
    return w


def feed(w, clip, *gradients):
    for gradient in gradients:
        w.grad = torch.tensor([gradient])
        clip()
    return w.grad
"""
ANYTHING_ELSE = "any answer but the right one"
NEITHER = "neither the right answer nor the described one"


@dataclass(frozen=True)
class Bug:
    """A reproduction; the last line of its code is the answer.

    right, wrong: a number, a list of numbers, or the class of an exception.
    ours: the same with gradclip; if empty, `code` with the two functions imported from gradclip.functional.
    """

    package: str
    title: str
    code: str
    right: Any
    wrong: Any
    ours: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer of one version of a package. shown: the answer as text."""

    version: str
    shown: str
    verdict: str


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--older", type=Path, nargs="*", default=[], help="folders with other versions of packages")
    parser.add_argument("--json", action="store_true", help="print the packages' answers as JSON, and write no page")
    args = parser.parse_args(arguments)
    if args.json:
        print(json.dumps([vars(theirs(bug)) if bug.package != "torch" else None for bug in BUGS]))
        return
    here = [[theirs(bug)] for bug in BUGS]
    for folder in args.older:
        for answers, older in zip(here, answers_from(folder), strict=True):
            if older and older["version"] not in [answer.version for answer in answers]:
                answers.insert(-1, Answer(**older))
    pages.write(args.page, {"summary": summary(here), "bugs": bugs(here)})


def answers_from(folder: Path) -> list[dict[str, str] | None]:
    """The answers of the packages in a folder, from a process that imports from it first; None for torch."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, __file__, "--json"]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    answers: list[dict[str, str] | None] = json.loads(ran.stdout.splitlines()[-1])
    return answers


# -- one reproduction


def theirs(bug: Bug) -> Answer:
    """The package's answer, compared with the right and the wrong one."""
    try:
        version = importlib.metadata.version(bug.package).partition("+")[0]  # torch says 2.13.0+cpu
    except importlib.metadata.PackageNotFoundError:
        return Answer("", "", "not installed")
    found = run(bug.code, "torch.nn.utils")
    if same(found, bug.right):
        verdict = "not reproduced"
    elif same(found, bug.wrong) or (bug.wrong == ANYTHING_ELSE and not isinstance(found, Exception)):
        verdict = "reproduced"
    else:
        verdict = NEITHER
    return Answer(version, show(found), verdict)


def ours(bug: Bug) -> Answer:
    found = run(bug.ours or bug.code, "gradclip.functional")
    return Answer("", show(found), "right" if same(found, bug.right) else "wrong")


def run(code: str, functions: str) -> Any:
    """Runs the code and returns the value of its last line, a tensor as a list, or the exception that it raised."""
    import torch

    names: dict[str, Any] = {}
    exec(BEFORE.format(functions=functions), names)
    *first, last = code.strip().splitlines()
    try:
        exec("\n".join(first), names)
        value = eval(last, names)
    except Exception as error:
        return error
    return value.tolist() if isinstance(value, torch.Tensor) else value


def same(found: Any, expected: Any) -> bool:
    """Whether an answer equals the expected one to 0.1 %; an exception equals its class."""
    if isinstance(expected, type):
        return isinstance(found, expected)
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(found, expected, rel_tol=1e-3) or (math.isnan(found) and math.isnan(expected))
    return bool(found == expected)


def show(found: Any) -> str:
    if isinstance(found, Exception):
        return textwrap.shorten(f"{type(found).__name__}: {found}", 120, placeholder=" …")
    if isinstance(found, list):
        return f"[{', '.join(map(show, found))}]"
    return f"{found:.6g}" if isinstance(found, float) else str(found)


# -- the page


def bugs(found: list[list[Answer]]) -> str:
    """Makes a section for every reproduction: the code that ran, and all answers."""
    lines = []
    for bug, answers in zip(BUGS, found, strict=True):
        lines += [f"## {bug.package}: {bug.title}", "", "```python", bug.code.strip(), "```", ""]
        if bug.ours:
            lines += ["```python", "# gradclip", bug.ours.strip(), "```", ""]
        lines += [*(in_words(bug.package, answer) for answer in answers), in_words("gradclip", ours(bug)), ""]
    return "\n".join(lines[:-1])


def summary(found: list[list[Answer]]) -> str:
    """Makes the table of the reproductions and the versions in which they were reproduced."""
    rows = []
    for bug, answers in zip(BUGS, found, strict=True):
        versions = ", ".join(f"{a.verdict} in {a.version}" if a.version else a.verdict for a in answers)
        rows.append([bug.package, bug.title, versions])
    return pages.table(["package", "what", "versions"], rows)


def in_words(package: str, answer: Answer) -> str:
    who = f"{package} {answer.version}".strip()
    return f"- {who}: `{answer.shown}`, {answer.verdict}" if answer.shown else f"- {who}: {answer.verdict}"


# fmt: off
BUGS = [
    Bug("torch", "a negative `max_norm` reverses the gradients",
        """
w = leaf(1.0, 1.0)
clip_grad_norm_(w, -1.0)
w.grad""",
        right=ValueError, wrong=[-(0.5**0.5), -(0.5**0.5)]),
    Bug("torch", "a `max_norm` of nan makes them nan",
        """
w = leaf(1.0, 1.0)
clip_grad_norm_(w, nan)
w.grad""",
        right=ValueError, wrong=[math.nan, math.nan]),
    Bug("torch", "gradients of 1e22 all become 0, since their norm overflows",
        """
w = leaf(1e22, 1e22)
clip_grad_norm_(w, 1.0)
w.grad""",
        right=[0.5**0.5, 0.5**0.5], wrong=[0.0, 0.0]),
    Bug("torch", "gradients of 1e-23 have a norm of 0, since their squares underflow",
        """
clip_grad_norm_(leaf(1e-23, 1e-23), 1.0).item()""",
        right=2**0.5 * 1e-23, wrong=0.0),
    Bug("torch", "float16 gradients with a norm above 65504 all become 0",
        """
w = leaf(4e4, 4e4, 4e4, dtype=torch.float16)
clip_grad_norm_(w, 1.0)
w.grad""",
        right=[3**-0.5] * 3, wrong=[0.0] * 3),
    Bug("torch", "the norm of bfloat16 gradients is rounded to bfloat16",
        """
w = leaf(*[1.0] * 1005, dtype=torch.bfloat16)
clip_grad_norm_(w, 1.0).item()""",
        right=1005**0.5, wrong=31.75),
    Bug("torch", "a parameter that is given twice is scaled twice",
        """
w = leaf(3.0, 4.0)
clip_grad_norm_([w, w], 1.0)
w.grad""",
        right=[0.6, 0.8], wrong=[0.06, 0.08]),
    Bug("torch", "a gradient without elements has no inf norm",
        """
clip_grad_norm_([leaf(3.0), leaf()], 1.0, inf).item()""",
        right=3.0, wrong=RuntimeError),
    Bug("torch", "`clip_grad_value_` raises where nothing has a gradient",
        """
w = torch.nn.Parameter(torch.zeros(2))
clip_grad_value_(w, 1.0)""",
        right=None, wrong=RuntimeError),
    Bug("torch", "`clip_grad_value_` raises on a sparse gradient",
        """
w = leaf(3.0, 0.0)
w.grad = w.grad.to_sparse()
clip_grad_value_(w, 1.0)""",
        right=None, wrong=RuntimeError),
    Bug("torch", "the norm of 85 million elements is too small on one thread of a CPU",
        """
w = torch.nn.Parameter(torch.zeros(85_000_000))
w.grad = torch.randn(85_000_000, generator=torch.Generator().manual_seed(0))  # near 85e6**0.5 = 9219.5
clip_grad_norm_(w, inf).item()""",
        right=85e6**0.5, wrong=ANYTHING_ELSE),
    Bug("zclip", "after one nan nothing is clipped any more",
        """
from zclip import ZClip

w = leaf(0.0)
model, clip = torch.nn.ParameterList([w]), ZClip(max_grad_norm=None, warmup_steps=2)
feed(w, lambda: clip.step(model), 1.0, 1.1, nan, 1000.0)""",
        right=[1.05], wrong=[1000.0], ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.ZClip(max=None, warmup=2, nonfinite="drop"))
feed(w, clipper.clip, 1.0, 1.1, nan, 1000.0)"""),
    Bug("zclip", "its memory cannot be saved",
        """
from zclip import ZClip

ZClip().state_dict()""",
        right=[1.05], wrong=AttributeError, ours="""
w, policy = leaf(0.0), gradclip.ZClip(max=None, warmup=2)
first, second = gradclip.Clipper([("w", w)], policy), gradclip.Clipper([("w", w)], policy)
feed(w, first.clip, 1.0, 1.1)
second.load_state_dict(first.state_dict())
feed(w, second.clip, 1000.0)"""),
    Bug("autoclip", "a nan makes the gradients of later steps nan",
        """
from autoclip.torch import QuantileClip

w = leaf(0.0)
clip = QuantileClip([w], quantile=0.0, global_threshold=True)
feed(w, clip.step, 1.0, nan, 3.0)""",
        right=[1.0], wrong=[math.nan], ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.AutoClip(percentile=0, nonfinite="drop"))
feed(w, clipper.clip, 1.0, nan, 3.0)"""),
    Bug("autoclip", "the list of its norms grows without a bound",
        """
from autoclip.torch import QuantileClip

w = leaf(0.0)
clip = QuantileClip([w], quantile=0.5, history_length=10, global_threshold=True)
feed(w, clip.step, *[1.0] * 20)
len(clip.state["global_history"])""",
        right=10, wrong=20, ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.AutoClip(window=10))
feed(w, clipper.clip, *[1.0] * 20)
clipper.state_dict()[""]["memory"]["norms"].numel()"""),
    Bug("pytorch_optimizer", "AdaGC divides by the square of the global norm in its warm-up",
        """
from pytorch_optimizer import AdaGC

w = leaf(3.0, 4.0)
adagc = AdaGC([w], betas=(0.0, 0.999), weight_decay=0.0)  # without momentum, exp_avg is the clipped gradient
adagc.step()
adagc.state[w]["exp_avg"]""",
        right=[0.6, 0.8], wrong=[0.12, 0.16], ours="""
w = leaf(3.0, 4.0)
gradclip.Clipper([("w", w)], gradclip.AdaGC()).clip()
w.grad"""),
    Bug("pytorch_optimizer", "AdaGC with `warmup_steps=1` clips to uninitialised memory",
        """
from pytorch_optimizer import AdaGC

w = leaf(3.0, 4.0)
adagc = AdaGC([w], betas=(0.0, 0.999), weight_decay=0.0, warmup_steps=1)
adagc.step()
adagc.state[w]["exp_avg"]""",
        right=[0.6, 0.8], wrong=ANYTHING_ELSE, ours="""
w = leaf(3.0, 4.0)
gradclip.Clipper([("w", w)], gradclip.AdaGC(warmup=1)).clip()
w.grad"""),
    Bug("pytorch_optimizer", "one gradient of 0 in AdaGC's warm-up brings the next thousand to nearly 0",
        """
from pytorch_optimizer import AdaGC

w = leaf(0.0)
adagc = AdaGC([w], betas=(0.0, 0.999), weight_decay=0.0, warmup_steps=3)
feed(w, adagc.step, 0.0, *[0.5] * 1000, 2.0)
adagc.state[w]["exp_avg"]""",
        right=[1.05 * 0.5], wrong=ANYTHING_ELSE, ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.AdaGC(warmup=2))
feed(w, clipper.clip, 0.0, *[0.5] * 1000, 2.0)"""),
    Bug("pytorch_optimizer", "SPAM clips nothing",
        """
from pytorch_optimizer import SPAM

w = leaf(0.0)
spam = SPAM([w], betas=(0.0, 0.999), threshold=1000, grad_accu_steps=3)
feed(w, spam.step, 1.0, 1.0, 1000.0)
spam.state[w]["exp_avg"]""",
        right=[1.999**0.5], wrong=[1000.0], ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.SpikeClip(theta=1000, warmup=2))
feed(w, clipper.clip, 1.0, 1.0, 1000.0)"""),
    Bug("pytorch_optimizer", "SPAM holds an element at 0 that was 0 until its clipping began",
        """
from pytorch_optimizer import SPAM

w = leaf(0.0)
spam = SPAM([w], betas=(0.0, 0.999), grad_accu_steps=3)
feed(w, spam.step, 0.0, 0.0, *[1.0] * 100)
spam.state[w]["exp_avg"]""",
        right=[1.0], wrong=[0.0], ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.SpikeClip(warmup=2))
feed(w, clipper.clip, 0.0, 0.0, *[1.0] * 100)"""),
    Bug("pytorch_optimizer", "AdaFactor does not limit its update",
        """
from pytorch_optimizer import AdaFactor

w = leaf(3.0, 4.0)  # the first update before clipping is [1, 1]
AdaFactor([w], 1.0, (None, 0.999), clip_threshold=0.1, scale_parameter=False, relative_step=False).step()
-w.detach()""",
        right=[0.1, 0.1], wrong=[1.0, 1.0], ours="""
update = leaf(1.0, 1.0)
gradclip.Clipper([("update", update)], gradclip.ClipByRMS(max=0.1)).clip()
update.grad"""),
    Bug("agc-optims", "gradients below their limit are enlarged to it",
        """
from agc_optims.utils import agc

w = leaf(1e-6, 0.0, weights=[3.0, 4.0])  # the limit is 0.05
agc(w)
w.grad""",
        right=[1e-6, 0.0], wrong=[0.05, 0.0], ours="""
w = leaf(1e-6, 0.0, weights=[3.0, 4.0])
gradclip.Clipper([("w", w)], gradclip.AGC()).clip()
w.grad"""),
    Bug("agc-optims", "the units of a matrix are its columns, which are inputs in PyTorch",
        """
from agc_optims.utils import agc

w = leaf([3.0, 4.0], [0.0, 0.0], weights=[[1.0, 0.0], [0.0, 100.0]])  # the limits of the rows are 0.01 and 1
agc(w)
w.grad""",
        right=[[0.006, 0.008], [0.0, 0.0]], wrong=[[0.01, 1.0], [0.0, 0.0]], ours="""
w = leaf([3.0, 4.0], [0.0, 0.0], weights=[[1.0, 0.0], [0.0, 100.0]])
gradclip.Clipper([("w", w)], gradclip.AGC()).clip()
w.grad"""),
    Bug("agc-optims", "a parameter without a gradient raises",
        """
from agc_optims.clipper import AGC

w, unused = leaf(10.0, weights=[1.0]), torch.nn.Parameter(torch.ones(1))
AGC(torch.optim.SGD([w, unused], lr=1.0)).step()
w.grad""",
        right=[0.01], wrong=AttributeError, ours="""
w, unused = leaf(10.0, weights=[1.0]), torch.nn.Parameter(torch.ones(1))
gradclip.Clipper([("w", w), ("unused", unused)], gradclip.AGC()).clip()
w.grad"""),
    Bug("agc-optims", "a step with a closure uses the gradients before clipping, since the closure runs again",
        """
from agc_optims.clipper import AGC

w = leaf(10.0, weights=[1.0])
AGC(torch.optim.SGD([w], lr=1.0)).step(lambda: feed(w, lambda: None, 10.0))
w""",
        right=[0.99], wrong=[-9.0], ours="""
w = leaf(10.0, weights=[1.0])
clipper = gradclip.Clipper([("w", w)], gradclip.AGC())
torch.optim.SGD([w], lr=1.0).step(lambda: feed(w, clipper.clip, 10.0))
w"""),
    Bug("smartclip", "the threshold at a percentile can only rise, so that in the end nothing is clipped",
        """
import smartclip

clip = smartclip.AutoClip(mode="percentile", percentile=5)
for norm in [1.0] + [0.5] * 1000:
    clip.observe(norm)
clip.threshold()""",
        right=0.5, wrong=6387.42, ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.AutoClip(percentile=5))
feed(w, clipper.clip, 1.0, *[0.5] * 1000)
clipper.clip().limits.item()"""),
    Bug("smartclip", "with 100 parameters `scope=\"per_param\"` reduces the first gradients to nearly 0",
        """
import smartclip

model = torch.nn.ParameterList([leaf(1.0) for _ in range(100)])
smartclip.apply(model, smartclip.AutoClip(scope="per_param"))
model[0].grad""",
        right=[1.0], wrong=[1e-8], ours="""
model = torch.nn.ParameterList([leaf(1.0) for _ in range(100)])
gradclip.Clipper(model, gradclip.AutoClip(scope="parameter")).clip()
model[0].grad"""),
    Bug("smartclip", "a spike raises the mean and deviation that it is compared with",
        """
import smartclip

w = leaf(0.0)
model, clip = torch.nn.ParameterList([w]), smartclip.ZScoreClip()
feed(w, lambda: smartclip.apply(model, clip), *[1.0] * 200, 1e6)""",
        right=[1.0], wrong=[308496.9], ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.ZClip(max=None))
feed(w, clipper.clip, *[1.0] * 200, 1e6)"""),
    Bug("smartclip", "`guard_nans`, which is on by default, makes an infinite gradient nan",
        """
import smartclip

w = leaf(0.0)
model, clip = torch.nn.ParameterList([w]), smartclip.AutoClip()
feed(w, lambda: smartclip.apply(model, clip), *[1.0] * 200, inf)""",
        right=ArithmeticError, wrong=[math.nan], ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.AutoClip())
feed(w, clipper.clip, *[1.0] * 200, inf)"""),
    Bug("smartclip", "AGC measures a matrix as one unit",
        """
import smartclip

w = leaf([3.0, 4.0], [0.0, 0.001], weights=[[1.0, 0.0], [0.0, 100.0]])  # the limits of the rows are 0.01 and 1
smartclip.apply(torch.nn.ParameterList([w]), smartclip.AGC())
w.grad""",
        right=[[0.006, 0.008], [0.0, 0.001]], wrong=[[0.60003, 0.80004], [0.0, 0.0002]], ours="""
w = leaf([3.0, 4.0], [0.0, 0.001], weights=[[1.0, 0.0], [0.0, 100.0]])
gradclip.Clipper([("w", w)], gradclip.AGC()).clip()
w.grad"""),
    Bug("smartclip", "AGC has no lower bound for the weights' norm, so that weights of 0 stay 0",
        """
import smartclip

w = leaf([3.0, 4.0])
smartclip.apply(torch.nn.ParameterList([w]), smartclip.AGC())
w.grad""",
        right=[[6e-6, 8e-6]], wrong=[[6e-11, 8e-11]], ours="""
w = leaf([3.0, 4.0])
gradclip.Clipper([("w", w)], gradclip.AGC()).clip()
w.grad"""),
    Bug("smartclip", "float16 gradients with a norm above 256 become 0",
        """
import smartclip

w = leaf(0.0, 0.0, dtype=torch.float16)
model, clip = torch.nn.ParameterList([w]), smartclip.AutoClip(warmup_steps=0, min_history=0)
for size in [1.0] * 10 + [300.0]:
    w.grad = torch.full_like(w, size)
    smartclip.apply(model, clip)
w.grad""",
        right=[1.0, 1.0], wrong=[0.0, 0.0], ours="""
w = leaf(0.0, 0.0, dtype=torch.float16)
clipper = gradclip.Clipper([("w", w)], gradclip.AutoClip())
for size in [1.0] * 10 + [300.0]:
    w.grad = torch.full_like(w, size)
    clipper.clip()
w.grad"""),
    Bug("AdamWClip", "with its defaults it reduces the first gradient of every element to 1e-10",
        """
from AdamWClip import AdamWClip

w = leaf(1.0)
AdamWClip([w]).step()
w.grad""",
        right=[1.0], wrong=[1e-10], ours="""
w = leaf(1.0)
gradclip.Clipper([("w", w)], gradclip.SpikeClip()).clip()
w.grad"""),
    Bug("AdamWClip", "with its defaults 30 gradients of 1 stay below 1e-6, since the limit sees clipped values alone",
        """
from AdamWClip import AdamWClip

w = leaf(0.0)
feed(w, AdamWClip([w]).step, *[1.0] * 30)""",
        right=[1.0], wrong=[6.411e-7], ours="""
w = leaf(0.0)
feed(w, gradclip.Clipper([("w", w)], gradclip.SpikeClip()).clip, *[1.0] * 30)"""),
    Bug("AdamWClip", "an element that was 0 throughout the warm-up is held at 1e-10",
        """
from AdamWClip import AdamWClip

w = leaf(0.0)
feed(w, AdamWClip([w], clip_grad_warm_up=100).step, *[0.0] * 1000, 1.0)""",
        right=[1.0], wrong=[1e-10], ours="""
w = leaf(0.0)
feed(w, gradclip.Clipper([("w", w)], gradclip.SpikeClip(warmup=100)).clip, *[0.0] * 1000, 1.0)"""),
    Bug("AdamWClip", "a parameter whose first gradient comes after the warm-up has none of its own",
        """
from AdamWClip import AdamWClip

w, late = leaf(0.0), torch.nn.Parameter(torch.zeros(1))
optimizer = AdamWClip([w, late], clip_grad_warm_up=2)
feed(w, optimizer.step, *[1.0] * 50)
feed(late, optimizer.step, 1.0)""",
        right=[1.0], wrong=[1e-10], ours="""
w, late = leaf(0.0), torch.nn.Parameter(torch.zeros(1))
clipper = gradclip.Clipper([("w", w), ("late", late)], gradclip.SpikeClip(warmup=2))
feed(w, clipper.clip, *[1.0] * 50)
feed(late, clipper.clip, 1.0)"""),
    Bug("AdamWClip", "the number of steps is not saved, so that a resumed run is in its warm-up again",
        """
from AdamWClip import AdamWClip

w = leaf(0.0)
first, second = AdamWClip([w], clip_grad_warm_up=2), AdamWClip([w], clip_grad_warm_up=2)
feed(w, first.step, *[1.0] * 5)
second.load_state_dict(first.state_dict())
feed(w, second.step, 100.0)""",
        right=[3.0], wrong=[100.0], ours="""
w, policy = leaf(0.0), gradclip.SpikeClip(theta=9, beta=0, warmup=2)  # the limit is 3 * sqrt(mean square)
first, second = gradclip.Clipper([("w", w)], policy), gradclip.Clipper([("w", w)], policy)
feed(w, first.clip, *[1.0] * 5)
second.load_state_dict(first.state_dict())
feed(w, second.clip, 100.0)"""),
    Bug("AdamWClip", "one nan makes all later gradients of its element nan",
        """
from AdamWClip import AdamWClip

w = leaf(0.0)
feed(w, AdamWClip([w], clip_grad_warm_up=2).step, *[1.0] * 5, nan, 1.0)""",
        right=[1.0], wrong=[math.nan], ours="""
w = leaf(0.0)
clipper = gradclip.Clipper([("w", w)], gradclip.SpikeClip(warmup=2, nonfinite="drop"))
feed(w, clipper.clip, *[1.0] * 5, nan, 1.0)"""),
    Bug("nfnets-pytorch", "`ignore_agc` ignores nothing, since the whole model is among the modules",
        """
import collections.abc

collections.Iterable = collections.abc.Iterable  # as before Python 3.10
from nfnets import AGC

w, fc = leaf(10.0, weights=[1.0]), leaf(10.0, weights=[1.0])
model = torch.nn.ModuleDict({"body": torch.nn.ParameterList([w]), "fc": torch.nn.ParameterList([fc])})
AGC(model.parameters(), torch.optim.SGD([w, fc]), model=model, ignore_agc=["fc"]).step()
fc.grad""",
        right=[10.0], wrong=[0.01], ours="""
w, fc = leaf(10.0, weights=[1.0]), leaf(10.0, weights=[1.0])
model = torch.nn.ModuleDict({"body": torch.nn.ParameterList([w]), "fc": torch.nn.ParameterList([fc])})
gradclip.Clipper(model, gradclip.AGC(exclude=["fc.*"])).clip()
fc.grad"""),
    Bug("nfnets-pytorch", "with `model.parameters()` only the first step is clipped, since the generator is used up",
        """
import collections.abc

collections.Iterable = collections.abc.Iterable  # as before Python 3.10
from nfnets import AGC

w = leaf(10.0, weights=[1.0])
model = torch.nn.ParameterList([w])
feed(w, AGC(model.parameters(), torch.optim.SGD([w], lr=0.0)).step, 10.0, 10.0)""",
        right=[0.01], wrong=[10.0], ours="""
w = leaf(10.0, weights=[1.0])
feed(w, gradclip.Clipper(torch.nn.ParameterList([w]), gradclip.AGC()).clip, 10.0, 10.0)"""),
]
# fmt: on


if __name__ == "__main__":
    main()
