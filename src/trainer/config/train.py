"""The root of the configuration: one run."""

from dataclasses import dataclass
from typing import Any

from gradclip.fields import Checked, key
from gradclip.policies import Policy
from trainer.config.data import Data
from trainer.config.device import Device
from trainer.config.mistake import Mistake
from trainer.config.model import Model
from trainer.config.optim import SGD, Optimizer, Schedule

# What may change when a run goes on: how long it is, what is looked at, written and kept. The weights do not
# depend on any of it. Everything else makes another run.
EXTENDING = {
    "steps", "evaluate_every", "check_every", "detect_anomaly", "log.every", "log.parameters_every", "log.first_steps",
    "log.flow", "log.histograms", "log.progress", "checkpoint.every", "checkpoint.keep", "divergence.factor",
    "diagnosis.explode", "diagnosis.vanish_layer", "diagnosis.vanish_weight", "diagnosis.smoothing",
    "diagnosis.patience", "data.sample", "data.workers", "resume",
}  # fmt: skip


@dataclass(kw_only=True)
class Log(Checked):
    """What is written, and how often."""

    every: int = key(
        "steps between two points in TensorBoard; evaluations and checkpoints add theirs",
        least=1,
    )
    parameters_every: int = key("the same for each parameter's norms, weight_norm and update_ratio, at logged steps",
                                least=1)  # fmt: skip
    first_steps: int = key("steps that are logged as a table: weight, gradient before and after clipping, update",
                           least=0, most=1000)  # fmt: skip
    flow: bool = key("draw each parameter's norm before and after clipping, at evaluations")
    histograms: bool = key("write histograms of all weights and gradients, at evaluations")
    progress: bool = key("show a progress bar when the output is a terminal")


@dataclass(kw_only=True)
class Checkpoint(Checked):
    """What is kept of a run."""

    every: int = key("steps between two checkpoints; the last step is always one", least=1)
    keep: int = key("how many of the newest checkpoints stay, beside the best", least=1)


@dataclass(kw_only=True)
class Divergence(Checked):
    """When a run counts as diverged; a non-finite loss or weight always ends it."""

    factor: float | None = key(
        "ends when the loss, smoothed over the logged steps, exceeds its first value this many times; null: never",
        above=1,
    )
    smoothing: float = key("weight of the past in the smoothed training loss", least=0, below=1)


@dataclass(kw_only=True)
class Diagnosis(Checked):
    """When the log warns, once, of gradients that explode, vanish or never come."""

    explode: float = key("a gradient explodes above so many times its weight, or a norm above so many times the usual",
                         above=1, infinite=True)  # fmt: skip
    vanish_layer: float = key("a weight's gradient vanishes below this share of the model's largest, by element",
                              least=0, below=1)  # fmt: skip
    vanish_weight: float = key("or, at the first step, below this share of the weight itself", least=0, below=1)
    smoothing: float = key("weight of the past in the usual norm and loss, means over the logged steps",
                           least=0, below=1)  # fmt: skip
    patience: int = key("looks, at the first step and at evaluations, after which a missing gradient is reported",
                        least=1)  # fmt: skip


@dataclass(kw_only=True)
class Sweep(Checked):
    """What `-m` does with the grid; of no meaning to a single run."""

    dry_run: bool = key("with -m: list the jobs, their folders and duplicates, and run nothing")
    resume: str | None = key("the folder of a sweep, of which whatever is missing or unfinished is run")


@dataclass(kw_only=True)
class Train(Checked):
    """One run, as the code sees it."""

    model: Model = key("what is trained")
    data: Data = key("what it is trained on")
    optimizer: Optimizer = key("what makes a step of a gradient")
    schedule: Schedule = key("how the learning rate changes")
    device: Device = key("where it runs")
    clip: Policy = key("how gradients are limited")

    steps: int = key("optimizer steps", least=1, most=10**12)
    seed: int = key("seed of everything random; 0 is one too", least=0, most=2**32 - 1)
    accumulate: int = key("parts that a batch is split into; their gradients are summed before one step", least=1)
    evaluate_every: int = key("steps between two evaluations; the last step is always one", least=1)
    check_every: int = key("steps between two checks that the gradients at the optimizer's door are the clipped ones",
                           least=1)  # fmt: skip
    repeat_batches: int | None = key("train on the first so many batches again and again; null for all", least=1)
    detect_anomaly: bool = key("torch's anomaly detection: names the operation that made a nan, and is slow")
    log: Log = key("what is written, and how often")
    checkpoint: Checkpoint = key("what is kept of a run")
    divergence: Divergence = key("when a run counts as diverged")
    diagnosis: Diagnosis = key("when the log warns of gradients")
    resume: str | None = key("a run's folder, or latest: that run goes on where it stopped, as it was configured")
    init_from: str | None = key("a checkpoint or a safetensors file: the weights that a new run starts from")
    sweep: Sweep = key("what -m does with the grid")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Values that are each allowed, but not together."""
        data, optimizer = self.data, self.optimizer
        takes = " or ".join(self.model.takes)
        if data.kind not in self.model.takes:
            raise Mistake(f"model={self.model.name} takes {takes}, but data={data.name} yields {data.kind}")
        if self.accumulate > data.batch_size:
            raise Mistake(
                f"accumulate={self.accumulate}: must be at most data.batch_size={data.batch_size}, which it splits"
            )
        if isinstance(optimizer, SGD) and optimizer.nesterov and optimizer.momentum == 0:
            raise Mistake("optimizer.nesterov=true needs optimizer.momentum above 0")
        if self.schedule.warmup > self.steps:
            raise Mistake(f"schedule.warmup={self.schedule.warmup} is longer than steps={self.steps}")
        if self.device.precision == "float16" and self.clip.nonfinite != "drop":
            raise Mistake("device.precision=float16 needs clip.nonfinite=drop: its loss scale is found by overflowing")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a checked configuration under its dotted key."""
    values: dict[str, Any] = {}
    for name, value in (config if isinstance(config, dict) else vars(config)).items():
        inner = isinstance(value, Checked | dict)
        values |= flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return values


def turned(earlier: dict[str, Any], later: dict[str, Any]) -> list[str]:
    """The keys of two flat configurations whose difference makes the later one another run."""
    names = sorted(name for name in earlier.keys() | later.keys() if name not in EXTENDING)
    missing = object()
    return [name for name in names if earlier.get(name, missing) != later.get(name, missing)]
