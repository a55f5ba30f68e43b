"""Clipping that scales, together with the fused step after it: multiplied by clip(), and folded into the step."""

import argparse
import statistics

import torch

from evidence.benchmarks import clip
from evidence.benchmarks.clip import Case
from evidence.benchmarks.measure import Times, Work, in_turns, machine, milliseconds, ratio, table, write
from gradclip import ClipByNorm


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=40, help="how often everything is measured")


def run(args: argparse.Namespace) -> None:
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, shapes in clip.lists(large=False).items():
            case = Case(shapes)
            times = in_turns(works(case), args.turns, case.put_back)
            rows.append([name, str(threads), *(added(times, work) for work in ("torch", "never", "auto")),
                         str(ratio(times, "never", "torch")), str(ratio(times, "auto", "torch")),
                         milliseconds(times, "torch"), milliseconds(times, "step")])  # fmt: skip
    head = ["gradients", "threads", "torch alone adds, ms", "`never` adds, ms", "`auto` adds, ms", "`never` / torch"]
    head += ["`auto` / torch", "torch and step, ms", "step, ms"]
    write("fold", f"{ABOUT}\n\n{machine()}\n\n{table(head, rows)}")


ABOUT = """`python evidence/benchmark.py fold`

Gradients that exceed their limit, and AdamW's fused step after them. *torch alone* is `clip_grad_norm_`; `never` and
`auto` are `clip()` with both norms of every parameter read, under `clip.fold=never` and `clip.fold=auto`. What each
*adds* is the median of its turns less the step alone in the same turn; the ratios are of clipping and step together."""


def works(case: Case) -> dict[str, Work]:
    optimizer = torch.optim.AdamW(case.parameters, lr=1e-5, fused=True)
    limit = 0.5 * case.norm()

    def before(clipping: Work) -> Work:
        def work() -> None:
            clipping()
            optimizer.step()

        return work

    return {
        "torch": before(case.torchs(limit)),
        "never": before(case.ours(ClipByNorm(max=limit), optimizer)),
        "auto": before(case.ours(ClipByNorm(max=limit, fold="auto"), optimizer)),
        "step": before(lambda: None),
    }


def added(times: Times, name: str) -> str:
    """Milliseconds that a work takes beyond the step alone."""
    return f"{statistics.median(a - b for a, b in zip(times[name], times['step'], strict=True)) * 1e3:.3g}"
