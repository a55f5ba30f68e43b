"""The root of the configuration, and its parts that have no file in conf/ of their own."""

from dataclasses import dataclass
from typing import ClassVar

import trainer.policies  # noqa: F401 (the policies there join Policy.options)
from gradclip.fields import Checked
from runner.config import RunConfig, field
from runner.errors import UserError
from trainer.config.data import Data
from trainer.config.device import Device
from trainer.config.model import Model
from trainer.config.optimizer import Optimizer
from trainer.config.schedule import Schedule


@dataclass(kw_only=True)
class Divergence(Checked):
    """When a run counts as diverged; a non-finite loss or weight always ends it."""

    factor: float | None = field(
        "ends a run whose loss, smoothed over the logged steps, exceeds this multiple of its first loss; null: never",
        gt=1,
        mutable_on_resume=True,
    )
    smoothing: float = field("decay of the moving average that smooths the training loss", ge=0, lt=1)


@dataclass(kw_only=True)
class Diagnosis(Checked):
    """When the log warns, once each, of bad gradients and of steps that are too long or too short."""

    removed: ClassVar[dict[str, str]] = {
        "vanish_layer": "a gradient vanishes below the resolution of floating-point numbers, compared with its weight",
        "vanish_weight": "a gradient vanishes below the resolution of floating-point numbers, compared with its weight",
    }

    explode: float = field(
        "gradients explode above this multiple of the weight's norm, or of the usual norm of all gradients",
        gt=1,
        infinite=True,
        mutable_on_resume=True,
    )
    update_max: float = field(
        "updates are large above this share of the norm of all weights", gt=0, infinite=True, mutable_on_resume=True
    )
    update_min: float = field(
        "updates are small below this share of the norm of all weights", ge=0, mutable_on_resume=True
    )
    smoothing: float = field("decay of the moving averages, over the logged steps, that give the usual norm and loss",
                             ge=0, lt=1, mutable_on_resume=True)  # fmt: skip
    patience: int = field("checks (at the first step and at evaluations) or measured updates, before the log warns",
                          ge=1, mutable_on_resume=True)  # fmt: skip


@dataclass(kw_only=True)
class PostMortem(Checked):
    """What a run does after it diverged, to find the cause and settings that work."""

    replay_steps: int = field(
        "steps that are repeated at most, from the last checkpoint, to see each parameter; 0: none",
        ge=0,
        mutable_on_resume=True,
    )
    try_steps: int = field("steps for which each other setting is tried; 0: none is tried, and none in a sweep",
                           ge=0, mutable_on_resume=True)  # fmt: skip
    seconds: float = field("seconds that both take at most", ge=0, mutable_on_resume=True)


@dataclass(kw_only=True)
class Train(RunConfig):
    """Root configuration of a training run."""

    removed: ClassVar[dict[str, str]] = {"accumulate": "micro_batches=2 splits each batch in two"}

    model: Model = field("the network")
    data: Data = field("the data set")
    optimizer: Optimizer = field("the optimizer")
    schedule: Schedule = field("the schedule of the learning rate")
    device: Device = field("the device")
    micro_batches: int = field("parts that a batch is split into; their gradients are summed before one step", ge=1)
    evaluate_every: int = field(
        "steps between two evaluations; the last step is always one", ge=1, mutable_on_resume=True
    )
    check_every: int = field("steps between two checks that the optimizer is given the clipped gradients",
                             ge=1, mutable_on_resume=True)  # fmt: skip
    repeat_batches: int | None = field(
        "train on this many of the first batches, repeated in order; null: on all batches", ge=1
    )
    detect_anomaly: bool = field(
        "torch's anomaly detection, which names the operation that produced a nan, and is slow", mutable_on_resume=True
    )
    divergence: Divergence = field("when a run counts as diverged")
    diagnosis: Diagnosis = field("when the log warns of gradients")
    post_mortem: PostMortem = field("what follows a divergence")
    init_from: str | None = field(
        "a checkpoint or a safetensors file: the weights that a new run starts from, read before its first step only",
        path=True,
        mutable_on_resume=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_pairs()

    def fixed_steps(self) -> str | None:
        """The reason why a resumed run cannot have another number of steps: its schedule depends on the number."""
        if not self.schedule.spans_all_steps:
            return None
        return f"schedule={self.schedule.name} spans all steps, so that every rate changes"

    def _check_pairs(self) -> None:
        """Raises UserError for values that are each allowed, but not together."""
        data = self.data
        takes = " or ".join(self.model.takes)
        if data.kind not in self.model.takes:
            fitting = sorted(name for name, model in Model.options.items() if data.kind in model.takes)
            verb = "takes" if len(fitting) == 1 else "take"
            hint = f"; {' and '.join(f'model={name}' for name in fitting)} {verb} it" if fitting else ""
            raise UserError(f"model={self.model.name} takes {takes}, but data={data.name} yields {data.kind}{hint}")
        if self.micro_batches > data.batch_size:
            raise UserError(
                f"micro_batches={self.micro_batches}: must be at most data.batch_size={data.batch_size}, "
                "which it splits"
            )
        if self.schedule.warmup > self.steps:
            raise UserError(f"schedule.warmup={self.schedule.warmup} is longer than steps={self.steps}")
        if self.device.precision == "float16" and self.clip.nonfinite != "drop":
            raise UserError(
                "device.precision=float16 needs clip.nonfinite=drop: its loss scale is found by overflowing"
            )
