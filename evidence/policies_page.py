"""Draws how each policy treats one and the same run: `python evidence/policies_page.py` writes docs/policies/*.png.

The norms before clipping are those of the default job under clip=norm; every policy then sees the same
sequence of gradients, so that the pictures differ by the policy alone. Needs matplotlib (extra `docs`).
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from gradclip import Chain, Clipper, Policy
from runner.compose import Composer, checked
from runner.errors import Parser, UserError, one_line
from trainer import loop

FOLDER = Path(__file__).parents[1] / "docs" / "policies"
SCENE = ["clip=norm", "clip.max=1.0", "data.sample=0", "log.progress=false"]


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Draws how each policy treats one run.")
    parser.add_argument("--steps", type=int, default=300, help="steps of the run that all policies see")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    args = parser.parse_args(arguments)
    with one_line():
        try:
            import matplotlib
        except ImportError as error:
            raise UserError('the pictures need matplotlib: pip install -c constraints.txt -e ".[docs]"') from error
        matplotlib.use("Agg")
        composer = Composer(CONF)
        names = composer.options("clip")
        policies = {name: checked(composer.compose([f"clip={name}"])).clip for name in names}
    figures = record(policies, args.steps)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, (before, after, limits) in figures.items():
        draw(args.folder / f"{name}.png", name, before, after, limits)
        print(args.folder / f"{name}.png")


def record(policies: dict[str, Policy], steps: int) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """By policy: the norms before and after, and the median limit, at every step of the one run."""
    session = loop.build(checked(Composer(CONF).compose([*SCENE, f"steps={steps}"])))
    named = list(session.model.named_parameters())
    clippers = {name: Clipper(named, policy, optimizer=session.optimizer) for name, policy in policies.items()}
    found: dict[str, tuple[list[float], list[float], list[float]]] = {name: ([], [], []) for name in policies}
    batches = session.data.batches(0)
    for _ in range(steps):
        session.optimizer.zero_grad()
        loop.forward_backward(session, next(batches))
        raw = [parameter.grad.clone() for _, parameter in named if parameter.grad is not None]
        for name, clipper in clippers.items():
            for (_, parameter), gradient in zip(named, raw, strict=True):
                parameter.grad = gradient.clone()
            report = clipper.clip()
            limits = report.limits if not isinstance(policies[name], Chain) else report.limits[-1:]
            for values, value in zip(found[name], (report.before, report.after, limits.median()), strict=True):
                values.append(value.item())
        for (_, parameter), gradient in zip(named, raw, strict=True):
            parameter.grad = gradient
        session.clipper.clip()
        session.optimizer.step()
    return found


def draw(path: Path, name: str, before: list[float], after: list[float], limits: list[float]) -> None:
    """One picture on a logarithmic axis; a limit that is infinite is not drawn."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3), dpi=100)
    steps = range(1, len(before) + 1)
    axes.plot(steps, before, color="#0072B2", linewidth=1, label="norm before")
    axes.plot(steps, after, color="#D55E00", linewidth=1, label="norm after")
    finite = torch.tensor(limits)
    drawn = torch.where(finite.isfinite(), finite, torch.nan).tolist()
    axes.plot(steps, drawn, color="black", linewidth=1, linestyle="--", label="limit (median of the blocks)")
    axes.set(yscale="log", xlabel="step", ylabel="2-norm", title=f"clip={name}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
