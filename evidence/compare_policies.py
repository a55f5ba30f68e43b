"""Compares policies with public implementations; writes evidence/docs/policies_compared.md.

    pip install optax timm autoclip zclip pytorch_optimizer opacus    (in a separate environment: optax installs jax)
    python evidence/compare_policies.py

Both get the same gradients, in float64, over 200 steps with spikes. The figure is the largest difference of a gradient
after clipping, relative to the norm of the gradient before. A package that is not installed has no figure.

Clipping inside an optimizer is read from its state: without momentum (beta1 = 0) the first moment is the clipped
gradient. Adafactor clips its update, which is the gradient times a constant if eps exceeds the second moment by far.
"""

import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import pages
from gradclip import (
    AGC,
    AdaGC,
    AutoClip,
    ClipByNorm,
    ClipByRMS,
    ClipByValue,
    Clipper,
    Policy,
    QuantileClip,
    SpikeClip,
    ZClip,
)

PAGE = pages.DOCS / "policies_compared.md"
STEPS = 200
SHAPES = [(5, 7), (5,), (3, 2, 2, 2), (4, 3)]
Step = list[Tensor]
Theirs = Callable[[list[nn.Parameter]], Callable[[], None]]  # takes parameters, returns a function that clips them


def main(arguments: list[str] | None = None) -> None:
    args = pages.parser(__doc__, PAGE).parse_args(arguments)
    rows = []
    for ours, package, what, theirs, why in COMPARISONS:
        try:
            version = importlib.metadata.version(package).partition("+")[0]  # torch 2.13.0+cpu
            figure = f"{difference(ours, theirs):.1e}"
        except ImportError:  # PackageNotFoundError is one
            version, figure = "not installed", ""
        rows.append([f"`{ours.name}`", what, f"{package} {version}", figure, why])
    head = ["policy", "compared with", "version", "largest difference", "reason, unless it is rounding"]
    pages.write(args.page, {"differences": pages.table(head, rows)})


def difference(policy: Policy, theirs: Theirs) -> float:
    """The largest relative difference over all steps and parameters."""
    mine, other = make_parameters(), make_parameters()
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


def make_parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(1)
    return [nn.Parameter(0.1 * torch.randn(shape, generator=random, dtype=torch.float64)) for shape in SHAPES]


def sequence() -> Iterator[Step]:
    """Yields each step's gradients: noise of growing size, with a spike at about every twentieth step."""
    random = torch.Generator().manual_seed(2)
    for step in range(STEPS):
        size = 1 + step / STEPS + 30 * float(torch.rand((), generator=random) < 0.05)
        yield [size * torch.randn(shape, generator=random, dtype=torch.float64) for shape in SHAPES]


# -- public implementations


def torch_norm(parameters: list[nn.Parameter]) -> Callable[[], None]:
    return lambda: (torch.nn.utils.clip_grad_norm_(parameters, 5.0), None)[1]


def torch_value(parameters: list[nn.Parameter]) -> Callable[[], None]:
    return lambda: torch.nn.utils.clip_grad_value_(parameters, 0.7)


def optax(make: Callable[[Any], Any]) -> Theirs:
    """An optax transformation, applied to NumPy copies of the gradients in float64."""

    def theirs(parameters: list[nn.Parameter]) -> Callable[[], None]:
        import jax
        import optax as library

        jax.config.update("jax_enable_x64", True)
        rule = make(library)
        weights = [p.detach().numpy() for p in parameters]
        state = rule.init(weights)

        def clip() -> None:
            nonlocal state
            gradients = [p.grad.numpy() for p in parameters if p.grad is not None]
            updates, state = rule.update(gradients, state, weights)
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.grad = torch.tensor(update.tolist(), dtype=torch.float64).view(parameter.shape)

        return clip

    return theirs


def timm_agc(parameters: list[nn.Parameter]) -> Callable[[], None]:
    package = importlib.util.find_spec("timm")
    if package is None or not package.submodule_search_locations:
        raise ImportError("timm")
    file = Path(package.submodule_search_locations[0]) / "utils" / "agc.py"  # importing timm needs torchvision
    spec = importlib.util.spec_from_file_location("timm_agc", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: module.adaptive_clip_grad(parameters, clip_factor=0.01, eps=1e-3)


def pytorch_optimizer_agc(parameters: list[nn.Parameter]) -> Callable[[], None]:
    from pytorch_optimizer.optimizer.agc import agc

    def clip() -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad = agc(parameter, parameter.grad, agc_eps=1e-3, agc_clip_val=0.01).detach()

    return clip


def zclip(option: str) -> Theirs:
    def theirs(parameters: list[nn.Parameter]) -> Callable[[], None]:
        from zclip import ZClip as Public

        model = nn.Module()
        for number, parameter in enumerate(parameters):
            model.register_parameter(f"p{number}", parameter)
        public = Public(clip_option=option)
        return lambda: (public.step(model), None)[1]

    return theirs


def autoclip(parameters: list[nn.Parameter]) -> Callable[[], None]:
    from autoclip.torch import QuantileClip

    public = QuantileClip(parameters, quantile=0.1, history_length=1000, global_threshold=True)
    return lambda: public.step()


def opacus(parameters: list[nn.Parameter]) -> Callable[[], None]:
    """AdaClip with batches of one sample, so that the sample's norm is the norm of the gradient."""
    from opacus.optimizers import AdaClipDPOptimizer

    public = AdaClipDPOptimizer(
        torch.optim.SGD(parameters, lr=0.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=1,
        target_unclipped_quantile=0.5, clipbound_learning_rate=0.2, min_clipbound=0.0, max_clipbound=math.inf,
        unclipped_num_std=1e-30,
    )  # fmt: skip

    def clip() -> None:
        gradients = [parameter.grad for parameter in parameters]
        public.zero_grad(set_to_none=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert gradient is not None
            parameter.grad_sample = gradient.unsqueeze(0)  # type: ignore[attr-defined]
        public.pre_step()  # step() without the wrapped optimizer's step

    return clip


def first_moment(make: Callable[[Any, list[nn.Parameter]], Any]) -> Theirs:
    """Reads the clipped gradient from the first moment of an optimizer that was made with beta1 = 0."""

    def theirs(parameters: list[nn.Parameter]) -> Callable[[], None]:
        import pytorch_optimizer

        optimizer = make(pytorch_optimizer, parameters)

        def clip() -> None:
            optimizer.step()
            for parameter in parameters:
                parameter.grad = optimizer.state[parameter]["exp_avg"].clone().view(parameter.shape)

        return clip

    return theirs


def adagc(package: Any, parameters: list[nn.Parameter]) -> Any:
    # Its warm-up lasts while step < warmup_steps, one step less than the number.
    return package.AdaGC(parameters, betas=(0.0, 0.999), weight_decay=0.0, warmup_steps=AdaGC().warmup + 1)


def spam(package: Any, parameters: list[nn.Parameter]) -> Any:
    return package.SPAM(parameters, betas=(0.0, 0.999), threshold=100, grad_accu_steps=21, update_proj_gap=10 * STEPS)


def adafactor(parameters: list[nn.Parameter]) -> Callable[[], None]:
    from pytorch_optimizer import AdaFactor

    unit = 1e-15  # eps1 makes the update this times the gradient
    optimizer = AdaFactor(
        parameters, lr=1.0, betas=(None, 0.999), eps1=unit**-2, clip_threshold=0.5 * unit,
        scale_parameter=False, relative_step=False,
    )  # fmt: skip

    def clip() -> None:
        for parameter in parameters:
            parameter.data.zero_()
        optimizer.step()
        for parameter in parameters:
            parameter.grad = parameter.detach() / -unit

    return clip


AFTER = "it divides by the norm + 1e-6"
COMPARISONS: list[tuple[Policy, str, str, Theirs, str]] = [
    (ClipByNorm(max=5.0), "torch", "`clip_grad_norm_`", torch_norm, AFTER),
    (ClipByNorm(max=5.0), "optax", "`clip_by_global_norm`", optax(lambda o: o.clip_by_global_norm(5.0)), ""),
    (ClipByValue(max=0.7), "torch", "`clip_grad_value_`", torch_value, ""),
    (ClipByValue(max=0.7), "optax", "`clip`", optax(lambda o: o.clip(0.7)), ""),
    (ClipByRMS(max=0.5), "optax", "`clip_by_block_rms`", optax(lambda o: o.clip_by_block_rms(0.5)), ""),
    (ClipByRMS(max=0.5), "pytorch_optimizer", "`AdaFactor`, its update", adafactor, ""),
    (AGC(), "timm", "`adaptive_clip_grad`", timm_agc, ""),
    (AGC(), "pytorch_optimizer", "`agc`", pytorch_optimizer_agc, ""),
    (ZClip(), "zclip", "`ZClip`, adaptive scaling", zclip("adaptive_scaling"), AFTER),
    (ZClip(mode="mean"), "zclip", "`ZClip`, mean", zclip("mean"), AFTER),
    (AutoClip(), "autoclip", "`QuantileClip`", autoclip, "its percentile excludes the norm of the current step"),
    (AdaGC(), "pytorch_optimizer", "`AdaGC`", first_moment(adagc), "its global norm in warm-up is in float32"),
    (QuantileClip(), "opacus", "`AdaClipDPOptimizer`, no noise, one sample a step", opacus,
     "its limit is in float32; it counts samples and `quantile` steps, which agree at one sample a step"),
    (SpikeClip(theta=100.0, warmup=20), "pytorch_optimizer", "`SPAM`", first_moment(spam),
     "none here; it holds an element that was always 0 at 0, while `spike` does not limit it"),
]  # fmt: skip


if __name__ == "__main__":
    main()
