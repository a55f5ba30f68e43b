"""Plots how each policy clips the same run: `python evidence/policies_page.py` writes docs/policies/*.png.

The gradients are those of the default job under clip=norm; every policy gets the same sequence, so that the plots
differ by the policy alone. Needs matplotlib (extra `docs`).
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence.common import compose
from evidence.pages import COLOURS, pyplot
from gradclip import Chain, Clipper, Policy
from trainer.loop import take_step
from trainer.state import build

FOLDER = Path(__file__).parents[1] / "docs" / "policies"


class Norms(NamedTuple):
    """2-norms of all gradients before and after clipping, and the median limit, at every step.

    limits: empty for a policy that limits single elements, which cannot be compared with norms.
    """

    before: list[float]
    after: list[float]
    limits: list[float]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=300, help="steps of the run")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the folder for the plots")
    args = parser.parse_args(arguments)
    names = [name for name in sorted(Policy.options) if name != "none"]
    policies = {name: compose(f"clip={name}").clip for name in names}
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, norms in record(policies, args.steps).items():
        draw(args.folder / f"{name}.png", name, norms)
        print(args.folder / f"{name}.png")


def record(policies: Mapping[str, Policy], steps: int) -> dict[str, Norms]:
    """Applies each policy to the gradients of every step of one run, which clip=norm clips."""
    state = build(compose("experiment=default_job", f"steps={steps}"))
    named = list(state.model.named_parameters())
    clippers = {name: Clipper(named, policy, optimizer=state.optimizer) for name, policy in policies.items()}
    norms_of = {name: Norms([], [], []) for name in policies}

    def apply_all() -> None:
        raw = [parameter.grad.clone() for _, parameter in named if parameter.grad is not None]
        for name, clipper in clippers.items():
            report = clipper.clip()
            limits = report.limits[-1:] if isinstance(policies[name], Chain) else report.limits
            norms_of[name].before.append(report.before.item())
            norms_of[name].after.append(report.after.item())
            if policies[name].kind != "elementwise":
                norms_of[name].limits.append(limits.median().item())
            for (_, parameter), gradient in zip(named, raw, strict=True):
                parameter.grad = gradient.clone()

    for batch, _ in zip(state.data.batches(0), range(steps), strict=False):
        take_step(state, batch, check=False, on_backward=apply_all)
    return norms_of


def draw(path: Path, name: str, norms: Norms) -> None:
    """Plots one policy on a logarithmic axis, without infinite limits and those of single elements."""
    figure, axes = pyplot().subplots(figsize=(8, 3), dpi=100, layout="constrained")
    steps = range(1, len(norms.before) + 1)
    axes.plot(steps, norms.before, color=COLOURS[0], linewidth=1, label="norm before")
    axes.plot(steps, norms.after, color=COLOURS[4], linewidth=1, label="norm after")
    if norms.limits:
        limits = torch.tensor(norms.limits)
        drawn = torch.where(limits.isfinite(), limits, torch.nan).tolist()
        axes.plot(steps, drawn, color="black", linewidth=1, linestyle="--", label="limit (median of the blocks)")
    axes.set(yscale="log", xlabel="step", ylabel="2-norm", title=f"clip={name}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=8)
    figure.savefig(path)
    pyplot().close(figure)


if __name__ == "__main__":
    main()
