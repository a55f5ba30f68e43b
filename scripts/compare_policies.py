"""Runs policies beside public implementations and writes the largest differences: docs/policies_compared.md.

    pip install optax timm autoclip zclip pytorch_optimizer    (in an environment of its own: optax brings jax)
    python scripts/compare_policies.py

Both are given the same gradients, in float64, over 200 steps with spikes. The figure is the largest difference of
a gradient after clipping, relative to that gradient's norm. A package that is not installed has no figure.
"""

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradclip import AGC, AutoClip, ClipByNorm, ClipByRMS, ClipByValue, Clipper, Policy, ZClip

PAGE = Path(__file__).parents[1] / "docs" / "policies_compared.md"
STEPS = 200
SHAPES = [(5, 7), (5,), (3, 2, 2, 2), (4, 3)]
Step = list[Tensor]
Theirs = Callable[[list[nn.Parameter]], Callable[[], None]]  # given the parameters, what clips their gradients


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compares policies with public implementations.")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    args = parser.parse_args(arguments)
    lines = [
        "# The policies beside public implementations",
        "",
        f"Written by `python scripts/compare_policies.py`: the same {STEPS} steps of float64 gradients with spikes,",
        "and the largest difference of a gradient after clipping, relative to its norm.",
        "",
        "| policy | beside | version | largest difference | why, where it is not rounding |",
        "|---|---|---|---|---|",
    ]
    for ours, package, what, theirs, why in COMPARISONS:
        try:
            version = importlib.metadata.version(package)
            figure = f"{difference(ours, theirs):.1e}"
        except ImportError:  # PackageNotFoundError is one
            version, figure = "not installed", ""
        lines.append(f"| `{ours.name}` | {what} | {package} {version} | {figure} | {why} |")
    args.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def difference(policy: Policy, theirs: Theirs) -> float:
    """The largest difference over all steps and parameters."""
    mine, other = parameters(), parameters()
    clipper = Clipper([(f"layer{number}.weight", p) for number, p in enumerate(mine)], policy)
    clip = theirs(other)
    largest = 0.0
    for step in sequence():
        for one, two, gradient in zip(mine, other, step, strict=True):
            one.grad, two.grad = gradient.clone(), gradient.clone()
        clipper.clip()
        clip()
        for one, two, gradient in zip(mine, other, step, strict=True):
            assert one.grad is not None
            assert two.grad is not None
            largest = max(largest, ((one.grad - two.grad).norm() / gradient.norm()).item())
    return largest


def parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(1)
    return [nn.Parameter(0.1 * torch.randn(shape, generator=random, dtype=torch.float64)) for shape in SHAPES]


def sequence() -> Iterator[Step]:
    """Noise that drifts, and a spike at about every twentieth step."""
    random = torch.Generator().manual_seed(2)
    for step in range(STEPS):
        size = 1 + step / STEPS + 30 * float(torch.rand((), generator=random) < 0.05)
        yield [size * torch.randn(shape, generator=random, dtype=torch.float64) for shape in SHAPES]


# -- theirs


def torch_norm(given: list[nn.Parameter]) -> Callable[[], None]:
    return lambda: (torch.nn.utils.clip_grad_norm_(given, 5.0), None)[1]


def torch_value(given: list[nn.Parameter]) -> Callable[[], None]:
    return lambda: torch.nn.utils.clip_grad_value_(given, 0.7)


def optax(make: Callable[[Any], Any]) -> Theirs:
    """An optax transformation, applied to NumPy copies of the gradients in float64."""

    def theirs(given: list[nn.Parameter]) -> Callable[[], None]:
        import jax
        import optax as library

        jax.config.update("jax_enable_x64", True)
        rule = make(library)
        weights = [p.detach().numpy() for p in given]
        state = rule.init(weights)

        def clip() -> None:
            nonlocal state
            gradients = [p.grad.numpy() for p in given if p.grad is not None]
            updates, state = rule.update(gradients, state, weights)
            for parameter, update in zip(given, updates, strict=True):
                parameter.grad = torch.tensor(update.tolist(), dtype=torch.float64).view(parameter.shape)

        return clip

    return theirs


def timm_agc(given: list[nn.Parameter]) -> Callable[[], None]:
    package = importlib.util.find_spec("timm")
    if package is None or not package.submodule_search_locations:
        raise ImportError("timm")
    file = Path(package.submodule_search_locations[0]) / "utils" / "agc.py"  # timm itself would want torchvision
    spec = importlib.util.spec_from_file_location("timm_agc", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: module.adaptive_clip_grad(given, clip_factor=0.01, eps=1e-3)


def pytorch_optimizer_agc(given: list[nn.Parameter]) -> Callable[[], None]:
    from pytorch_optimizer.optimizer.agc import agc

    def clip() -> None:
        for parameter in given:
            assert parameter.grad is not None
            parameter.grad = agc(parameter, parameter.grad, agc_eps=1e-3, agc_clip_val=0.01).detach()

    return clip


def zclip(option: str) -> Theirs:
    def theirs(given: list[nn.Parameter]) -> Callable[[], None]:
        from zclip import ZClip as Public

        model = nn.Module()
        for number, parameter in enumerate(given):
            model.register_parameter(f"p{number}", parameter)
        public = Public(clip_option=option)
        return lambda: (public.step(model), None)[1]

    return theirs


def autoclip(given: list[nn.Parameter]) -> Callable[[], None]:
    from autoclip.torch import QuantileClip

    public = QuantileClip(given, quantile=0.1, history_length=1000, global_threshold=True)
    return lambda: public.step()


AFTER = "it divides by the norm + 1e-6"
COMPARISONS: list[tuple[Policy, str, str, Theirs, str]] = [
    (ClipByNorm(max=5.0), "torch", "`clip_grad_norm_`", torch_norm, AFTER),
    (ClipByNorm(max=5.0), "optax", "`clip_by_global_norm`", optax(lambda o: o.clip_by_global_norm(5.0)), ""),
    (ClipByValue(max=0.7), "torch", "`clip_grad_value_`", torch_value, ""),
    (ClipByValue(max=0.7), "optax", "`clip`", optax(lambda o: o.clip(0.7)), ""),
    (ClipByRMS(max=0.5), "optax", "`clip_by_block_rms`", optax(lambda o: o.clip_by_block_rms(0.5)), ""),
    (AGC(exclude_last=False), "timm", "`adaptive_clip_grad`", timm_agc, ""),
    (AGC(exclude_last=False), "pytorch_optimizer", "`agc`", pytorch_optimizer_agc, ""),
    (ZClip(), "zclip", "`ZClip`, adaptive scaling", zclip("adaptive_scaling"), AFTER),
    (ZClip(mode="mean"), "zclip", "`ZClip`, mean", zclip("mean"), AFTER),
    (AutoClip(), "autoclip", "`QuantileClip`", autoclip, "its percentile leaves out the norm of the step itself"),
]


if __name__ == "__main__":
    main()
