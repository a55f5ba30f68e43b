"""Training loops of other frameworks, as their users write them, with clipping, and loss and norms logged every step.

Both norms are those of all gradients together; every loop writes them with its own TensorBoard logger, without a
progress bar, checkpoints or validation. The packages are optional: extra `bench`.
"""

import importlib.util
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.data import IterableDataset
from torch.utils.tensorboard import SummaryWriter

from trainer.data import Batch, Dataset

Loop = Callable[[nn.Module, Dataset, Path, int], None]  # the model, its data, where to log, how many steps

RATE = 1e-5  # so small that the model does not memorize the random batch
LIMIT = 0.1  # clips every step, which is the more expensive case


class Stream(IterableDataset[Any]):
    """An iterable data set whose items are whole batches. convert: applied to each batch."""

    def __init__(self, data: Dataset, convert: Callable[[Batch], Any] = lambda batch: batch):
        self._data, self._convert = data, convert

    def __iter__(self) -> Iterator[Any]:
        return map(self._convert, self._data.batches(0))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)


def norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients, by torch."""
    return get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def lightning(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """Trains with Lightning's Trainer, which logs the norms in its hooks."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Batch, _: int) -> Tensor:
            loss = data.loss(self.model(batch.inputs)[0], batch.targets)
            self.log("loss/train", loss)
            return loss

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.log("grad_norm/before", norm(self.parameters()))

        def configure_gradient_clipping(
            self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
        ) -> None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            self.log("grad_norm/after", norm(self.parameters()))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        gradient_clip_val=LIMIT,
        logger=TensorBoardLogger(folder),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the missing workers and length
        trainer.fit(Module(), Stream(data))


def fabric(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """Trains with Fabric, whose `clip_gradients` returns the norm before clipping."""
    from lightning.fabric import Fabric
    from lightning.fabric.loggers import TensorBoardLogger

    fabric = Fabric(accelerator="cpu", devices=1, loggers=TensorBoardLogger(folder))
    wrapped, optimizer = fabric.setup(model, adamw(model))
    for step, batch in enumerate(itertools.islice(data.batches(0), steps)):
        optimizer.zero_grad()
        loss = data.loss(wrapped(batch.inputs)[0], batch.targets)
        fabric.backward(loss)
        before = fabric.clip_gradients(wrapped, optimizer, max_norm=LIMIT)
        after = norm(wrapped.parameters())
        optimizer.step()
        fabric.log_dict({"loss/train": loss, "grad_norm/before": before, "grad_norm/after": after}, step)
    fabric.logger.finalize("success")


def accelerate(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """Trains with Accelerate, whose `clip_grad_norm_` returns the norm before clipping."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder)
    accelerator.init_trackers("run")
    wrapped, optimizer = accelerator.prepare(model, adamw(model))
    for step, batch in enumerate(itertools.islice(data.batches(0), steps)):
        optimizer.zero_grad()
        loss = data.loss(wrapped(batch.inputs)[0], batch.targets)
        accelerator.backward(loss)
        before = accelerator.clip_grad_norm_(wrapped.parameters(), LIMIT)
        after = norm(wrapped.parameters())
        optimizer.step()
        scalars = {"loss/train": loss.item(), "grad_norm/before": before.item(), "grad_norm/after": after.item()}
        accelerator.log(scalars, step=step)
    accelerator.end_training()


def hugging_face(model: nn.Module, data: Dataset, folder: Path, steps: int) -> None:
    """Trains with the Hugging Face Trainer, which logs the norm before clipping; a callback measures the one after."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.integrations import TensorBoardCallback

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": data.loss(self.model(inputs)[0], labels)}

    class After(TrainerCallback):  # type: ignore[misc]
        norm = 0.0

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.norm = norm(model.parameters()).item()

    class Logging(Trainer):  # type: ignore[misc]
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs | {"grad_norm_after": after.norm}, start_time)

    after, whole = After(), WithLoss()
    settings = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        max_grad_norm=LIMIT,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        per_device_train_batch_size=1,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Logging(
        whole,
        settings,
        train_dataset=Stream(data, lambda batch: {"inputs": batch.inputs, "labels": batch.targets}),
        data_collator=lambda rows: rows[0],  # a row is a batch
        callbacks=[after, TensorBoardCallback(SummaryWriter(str(folder)))],
        optimizers=(adamw(whole), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


LOOPS: dict[str, tuple[str, Loop]] = {
    "Lightning": ("lightning", lightning),
    "Fabric": ("lightning", fabric),
    "Accelerate": ("accelerate", accelerate),
    "Hugging Face": ("transformers", hugging_face),
}


def installed() -> dict[str, Loop]:
    """The loops whose packages are installed."""
    return {name: loop for name, (package, loop) in LOOPS.items() if importlib.util.find_spec(package)}
