"""The callbacks for Lightning and for the Trainer of transformers, in the real libraries (extra `recipes`)."""

import ast
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

from gradclip import ClipByNorm, ClipCheckError, EMAClip, NonFiniteGradientError, Policy
from tests.support import ROOT, exact_norm

LIBRARIES = {"lightning": "lightning", "huggingface": "transformers"}
pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own
STEPS = 8
Fit = Callable[..., tuple[nn.Module, dict[str, Any], list[dict[str, float]]]]


def batches(bad: int | None = None, count: int = STEPS) -> Tensor:
    """One row for each batch of one; the row `bad` is nan."""
    rows = 10 * torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    if bad is not None:
        rows[bad] = math.nan
    return rows


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def fit_lightning(folder: Path, policy: Policy, rows: Tensor, *, resume: bool = False, **options: Any) -> Any:
    """Trains on the rows in their order. Returns the model, the state of its optimizer, and what was logged."""
    lightning = importlib.import_module("lightning.pytorch")
    integration = importlib.import_module("gradclip.integrations.lightning")
    logged: list[dict[str, float]] = []

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss: Tensor = self.net(batch[0].to(self.net.weight.dtype)).square().mean()
            return loss

        def configure_optimizers(self) -> Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.1)

        def on_train_batch_end(self, *_: Any) -> None:
            if "grad_norm/before" in self.trainer.callback_metrics:
                logged.append({k: v.item() for k, v in self.trainer.callback_metrics.items()})

    module = Module()
    options = {"max_steps": len(rows)} | options
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=-1,
        enable_checkpointing=False, callbacks=[integration.ClipCallback(policy)], **options,
    )  # fmt: skip
    path = folder / "lightning.ckpt"
    trainer.fit(module, DataLoader(TensorDataset(rows)), ckpt_path=path if resume else None)
    trainer.save_checkpoint(path)
    return module.net, trainer.optimizers[0].state_dict()["state"], logged


def fit_huggingface(folder: Path, policy: Policy, rows: Tensor, *, resume: bool | str = False, **options: Any) -> Any:
    """The same with the Trainer of transformers."""
    transformers = importlib.import_module("transformers")
    integration = importlib.import_module("gradclip.integrations.huggingface")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            return {"loss": self.net(x).square().mean()}

    class Ordered(transformers.Trainer):  # type: ignore[misc, name-defined]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    settings = transformers.TrainingArguments(
        output_dir=str(folder / "huggingface"), max_steps=options.pop("max_steps", len(rows)), use_cpu=True,
        report_to=[], disable_tqdm=True, per_device_train_batch_size=1, learning_rate=0.1, lr_scheduler_type="constant",
        optim="adamw_torch", logging_steps=1, save_steps=4, logging_nan_inf_filter=False,
        **({"max_grad_norm": 0.0} | options),
    )  # fmt: skip
    data = [{"x": row, "labels": torch.zeros(1)} for row in rows]
    trainer = Ordered(Model(), settings, train_dataset=data, callbacks=[integration.ClipCallback(policy)])
    trainer.train(resume_from_checkpoint=resume)
    logged = [entry for entry in trainer.state.log_history if "grad_norm/before" in entry]
    return trainer.model.net, trainer.optimizer.state_dict()["state"], logged


@pytest.fixture(params=LIBRARIES)
def fit(request: pytest.FixtureRequest) -> Fit:
    """Trains in one of the libraries."""
    library = LIBRARIES[request.param]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; the extra `recipes` has it")
    return {"lightning": fit_lightning, "huggingface": fit_huggingface}[request.param]


@pytest.fixture
def stepped() -> Iterator[list[float]]:
    """The norm of the gradients at every optimizer step that has any."""
    norms: list[float] = []

    def record(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            norms.append(exact_norm(gradients))

    handle = register_optimizer_step_pre_hook(record)
    yield norms
    handle.remove()


def same(one: Any, other: Any) -> bool:
    """Whether two models and two optimizer states are equal, bit for bit."""
    if isinstance(one, nn.Module):
        return same(one.state_dict(), other.state_dict())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def test_a_dropped_step_changes_neither_weights_nor_state(fit: Fit, tmp_path: Path) -> None:
    policy = ClipByNorm(max=1.0, nonfinite="drop")
    rows = batches(bad=5)
    with_nan, state, _ = fit(tmp_path / "one", policy, rows)
    without, other_state, _ = fit(tmp_path / "other", policy, torch.cat([rows[:5], rows[6:]]))
    assert same(with_nan, without)
    assert same(state, other_state)
    assert all(bool(parameter.isfinite().all()) for parameter in with_nan.parameters())


def test_a_nonfinite_gradient_ends_the_training_by_default(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteGradientError, match=r"net\.weight"):
        fit(tmp_path, ClipByNorm(max=1.0), batches(bad=2))


def test_the_norms_before_and_after_are_logged(fit: Fit, tmp_path: Path) -> None:
    _, _, logged = fit(tmp_path, ClipByNorm(max=0.5), batches())
    assert len(logged) == STEPS
    assert all(entry["grad_norm/before"] > 0.5 for entry in logged)
    assert [entry["grad_norm/after"] for entry in logged] == pytest.approx([0.5] * STEPS, rel=1e-5)


def test_accumulated_gradients_are_clipped_once(fit: Fit, tmp_path: Path) -> None:
    key = "accumulate_grad_batches" if fit is fit_lightning else "gradient_accumulation_steps"
    _, state, logged = fit(tmp_path, ClipByNorm(max=0.5), batches(), max_steps=STEPS // 4, **{key: 4})
    assert state[0]["step"].item() == STEPS // 4
    assert len({entry["grad_norm/before"] for entry in logged}) == STEPS // 4
    assert all(entry["grad_norm/after"] <= 0.5 * (1 + 1e-5) for entry in logged)


def test_a_resumed_training_equals_an_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    """The limits of `ema` depend on all norms before. All batches are equal: Lightning does not resume their order."""
    policy, rows = EMAClip(ratio=0.5, warmup=2, scope="model"), batches()[:1].expand(STEPS, 4)
    whole, state, logged = fit(tmp_path / "whole", policy, rows, max_steps=2 * STEPS)
    assert any(entry["grad_norm/after"] < 0.9 * entry["grad_norm/before"] for entry in logged[STEPS:])
    fit(tmp_path / "parts", policy, rows)
    resumed, resumed_state, _ = fit(tmp_path / "parts", policy, rows, resume=True, max_steps=2 * STEPS)
    assert same(whole, resumed)
    assert same(state, resumed_state)


def test_the_librarys_own_clipping_is_refused(fit: Fit, tmp_path: Path) -> None:
    key = "gradient_clip_val" if fit is fit_lightning else "max_grad_norm"
    with pytest.raises(ValueError, match=f"ClipCallback clips: .*{key}"):
        fit(tmp_path, ClipByNorm(max=1.0), batches(), **{key: 1.0})


def test_the_groups_of_the_optimizer_are_known(fit: Fit, tmp_path: Path, stepped: list[float]) -> None:
    _, _, logged = fit(tmp_path, ClipByNorm(max=0.25, scope="group"), batches())
    groups = 2 if fit is fit_huggingface else 1  # with and without weight decay
    assert logged[0]["grad_norm/after"] == pytest.approx(0.25 * math.sqrt(groups), rel=1e-5)
    if fit is fit_huggingface:  # Lightning computes gradients within the step
        assert [entry["grad_norm/after"] for entry in logged] == pytest.approx(stepped, rel=1e-5)


def test_a_model_in_float64_is_clipped(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    model, _, logged = fit_lightning(tmp_path, ClipByNorm(max=0.5), batches(), precision="64-true")
    assert next(model.parameters()).dtype == torch.float64
    assert [entry["grad_norm/after"] for entry in logged] == pytest.approx([0.5] * STEPS, rel=1e-6)


def lightning_trainer(callback: Any, **options: Any) -> Any:
    """A Trainer of one epoch on the CPU that writes and prints nothing."""
    return importlib.import_module("lightning.pytorch").Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        enable_checkpointing=False, callbacks=[callback], **options,
    )  # fmt: skip


def lightning_module(optimizer: Callable[[nn.Module], Optimizer], late: int | None = None) -> Any:
    """A module with a second layer, `aside`, whose gradient is computed too; its optimizer gets it at batch `late`."""
    lightning = importlib.import_module("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.aside = net(), net()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss: Tensor = self.net(batch[0]).square().mean() + 100 * self.aside(batch[0]).square().mean()
            return loss

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            if index == late:
                self.trainer.optimizers[0].add_param_group({"params": list(self.aside.parameters())})

        def configure_optimizers(self) -> Optimizer:
            return optimizer(self)

    return Module()


def test_a_callback_that_is_used_again_clips_the_new_model(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    callback = importlib.import_module("gradclip.integrations.lightning").ClipCallback(ClipByNorm(max=0.5))
    for _ in range(2):
        module = lightning_module(lambda module: torch.optim.SGD(module.parameters(), lr=0.01))
        trainer = lightning_trainer(callback)
        trainer.fit(module, DataLoader(TensorDataset(batches())))
        assert trainer.callback_metrics["grad_norm/after"].item() == pytest.approx(0.5, rel=1e-5)
        assert callback.clippers[0].summary().steps == STEPS


def test_parameters_that_the_optimizer_lacks_do_not_count(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    callback = importlib.import_module("gradclip.integrations.lightning").ClipCallback(ClipByNorm(max=0.5))
    module = lightning_module(lambda module: torch.optim.SGD(module.net.parameters(), lr=0.01))
    trainer = lightning_trainer(callback)
    trainer.fit(module, DataLoader(TensorDataset(batches())))
    assert trainer.callback_metrics["grad_norm/after"].item() == pytest.approx(0.5, rel=1e-5)
    assert exact_norm([p.grad for p in module.net.parameters()]) == pytest.approx(0.5, rel=1e-5)


def test_gradients_that_stay_scaled_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch.plugins.precision import MixedPrecision

    callback = importlib.import_module("gradclip.integrations.lightning").ClipCallback(ClipByNorm(max=0.5))
    module = lightning_module(lambda module: torch.optim.Adam(module.parameters(), fused=True))
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match="cannot clip scaled gradients"):
        lightning_trainer(callback, plugins=[plugin]).fit(module, DataLoader(TensorDataset(batches())))


def test_a_checkpoint_of_another_folder_brings_its_own_memory(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    policy, rows = EMAClip(ratio=0.5, warmup=2, scope="model"), batches()[:1].expand(STEPS, 4)
    whole, _, _ = fit_huggingface(tmp_path / "one", policy, rows, max_steps=2 * STEPS)
    fit_huggingface(tmp_path / "one", policy, rows)
    fit_huggingface(tmp_path / "other", policy, 5 * rows)  # a run with another memory, in the folder that continues
    saved = str(tmp_path / "one" / "huggingface" / f"checkpoint-{STEPS}")
    resumed, _, _ = fit_huggingface(tmp_path / "other", policy, rows, resume=saved, max_steps=2 * STEPS)
    assert same(whole, resumed)


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_not_a_policy_is_refused_at_once(name: str) -> None:
    pytest.importorskip(LIBRARIES[name])
    callback = importlib.import_module(f"gradclip.integrations.{name}").ClipCallback
    for wrong in (1.0, ClipByNorm):
        with pytest.raises(TypeError, match="the policy is the "):
            callback(wrong)


def two_networks(toggle: bool, norms: list[float]) -> Any:
    """A module with two networks and an optimizer for each. norms: gets the norms with which they step, 0.4 before.

    toggle: whether only the parameters of the optimizer that steps require a gradient, as is usual for a GAN.
    """
    lightning = importlib.import_module("lightning.pytorch")

    class Two(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.nets = nn.ModuleList([net(), net()])

        def training_step(self, batch: list[Tensor], _: int) -> None:
            for each, optimizer in zip(self.nets, self.optimizers(), strict=True):
                if toggle:
                    self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                loss = each(batch[0]).square().mean()
                norm = exact_norm(torch.autograd.grad(loss, list(each.parameters()), retain_graph=True))
                self.manual_backward(0.4 / norm * loss)
                optimizer.step()
                norms.append(exact_norm([parameter.grad for parameter in each.parameters()]))
                if toggle:
                    self.untoggle_optimizer(optimizer)

        def configure_optimizers(self) -> list[Optimizer]:
            return [torch.optim.SGD(each.parameters(), lr=0.01 * (n + 1)) for n, each in enumerate(self.nets)]

    return Two()


@pytest.mark.parametrize("toggle", [False, True])
@pytest.mark.parametrize("limit", [0.3, 0.5])
def test_each_of_two_optimizers_has_a_norm_of_its_own(toggle: bool, limit: float) -> None:
    """The norm of both together, 0.57, exceeds both limits."""
    pytest.importorskip("lightning")
    callback = importlib.import_module("gradclip.integrations.lightning").ClipCallback(ClipByNorm(max=limit))
    norms: list[float] = []
    trainer = lightning_trainer(callback)
    trainer.fit(two_networks(toggle, norms), DataLoader(TensorDataset(batches())))
    assert norms == pytest.approx([min(0.4, limit)] * 2 * STEPS, rel=1e-5)
    assert {f"grad_norm_{n}/{when}" for n in (0, 1) for when in ("before", "after")} <= set(trainer.callback_metrics)
    assert [clipper.summary().steps for clipper in callback.clippers.values()] == [STEPS, STEPS]


def test_a_group_that_is_added_later_is_found_by_the_check() -> None:
    pytest.importorskip("lightning")
    callback = importlib.import_module("gradclip.integrations.lightning").ClipCallback(ClipByNorm(max=0.5))
    module = lightning_module(lambda module: torch.optim.SGD(module.net.parameters(), lr=0.01), late=3)
    with pytest.raises(ClipCheckError, match="is not a parameter of the Clipper"):
        lightning_trainer(callback, log_every_n_steps=2).fit(module, DataLoader(TensorDataset(batches())))


def test_a_trainer_that_logs_nothing_clips() -> None:
    pytest.importorskip("lightning")
    callback = importlib.import_module("gradclip.integrations.lightning").ClipCallback(ClipByNorm(max=0.5))
    module = lightning_module(lambda module: torch.optim.SGD(module.parameters(), lr=0.01))
    lightning_trainer(callback, log_every_n_steps=0).fit(module, DataLoader(TensorDataset(batches())))
    assert callback.clippers[0].summary().steps == STEPS


def test_a_checkpoint_without_the_callback_can_be_resumed_and_saved_again(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import json

    rows = batches()
    fit_huggingface(tmp_path, ClipByNorm(max=0.5), rows)
    state = tmp_path / "huggingface" / f"checkpoint-{STEPS}" / "trainer_state.json"
    content = json.loads(state.read_text())
    content["stateful_callbacks"].pop("ClipCallback")
    state.write_text(json.dumps(content))
    _, _, logged = fit_huggingface(tmp_path, ClipByNorm(max=0.5), rows, resume=True, max_steps=2 * STEPS)
    assert logged[-1]["grad_norm/after"] <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_callback_has_at_most_forty_lines_of_code(name: str) -> None:
    text = (ROOT / "src" / "gradclip" / "integrations" / f"{name}.py").read_text(encoding="utf-8")
    (callback,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    lines = text.splitlines()[callback.body[1].lineno - 1 : callback.end_lineno]  # without the docstring
    assert len([line for line in lines if line.strip()]) <= 40
