"""The part of a run's configuration that the runner reads, and the description of a project. Imports no torch."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from gradclip import fields
from gradclip.fields import Checked, Option, field_type
from gradclip.policies import Policy


def field(help: str, *, mutable_on_resume: bool = False, path: bool = False, **limits: Any) -> Any:
    """A field of a schema: that of `gradclip.fields.field` with two properties that the runner reads.

    mutable_on_resume: the steps already taken do not depend on it, so a resumed run may have another value.
    path: the value is the path of a file, which is made absolute before the run is saved.
    """
    return fields.field(help, metadata={"mutable_on_resume": mutable_on_resume, "path": path}, **limits)


@dataclass(kw_only=True)
class Log(Checked):
    """What a run logs, and how often."""

    removed: ClassVar[dict[str, str]] = {"flow": "log.gradient_norms=false switches its successor off"}

    every: int = field(
        "steps between two points in TensorBoard; evaluations and checkpoints add theirs",
        ge=1,
        mutable_on_resume=True,
    )
    parameters_every: int = field(
        "steps between two points of each parameter's gradient norms, weight_norm and update_ratio, at logged steps",
        ge=1,
        mutable_on_resume=True,
    )
    first_steps: int = field(
        "the first so many steps are logged as a table: weight, gradient before and after clipping, update",
        ge=0,
        le=1000,
        mutable_on_resume=True,
    )
    gradient_norms: bool = field(
        "draw each parameter's gradient norm over the steps, and the distribution of all norms, at evaluations",
        mutable_on_resume=True,
    )
    histograms: bool = field("write histograms of all weights and gradients, at evaluations", mutable_on_resume=True)
    progress: bool = field("show a progress bar when the output is a terminal", mutable_on_resume=True)


@dataclass(kw_only=True)
class Checkpoint(Checked):
    """When checkpoints are written, and which are kept."""

    every: int = field("steps between two checkpoints; the last step is always one", ge=1, mutable_on_resume=True)
    keep: int = field("how many of the newest checkpoints are kept, beside the best", ge=1, mutable_on_resume=True)


@dataclass(kw_only=True)
class Slurm(Checked):
    """The resources that a job of a sweep requests from Slurm, with `sweep.launcher=slurm`."""

    cluster: str = field(
        "slurm: jobs are submitted; local: they run on this machine, to try the other settings",
        choices=("slurm", "local"),
        default="slurm",
    )
    partition: str | None = field("partition; null: the cluster's default", default=None)
    account: str | None = field("account that is charged; null: the user's default", default=None)
    qos: str | None = field("quality of service; null: the cluster's default", default=None)
    constraint: str | None = field("features that the node must have", default=None)
    minutes: int = field("time limit of a job", ge=1, default=1440)
    cpus: int = field("CPU cores of a job", ge=1, default=2)
    gpus: int = field("GPUs of a job; a job with device=cuda needs 1", ge=0, default=0)
    memory_gb: float | None = field("memory of a job; null: the cluster's default", gt=0, default=None)


@dataclass(kw_only=True)
class Sweep(Checked):
    """The settings of a sweep, which `-m` starts; a single run does not read them."""

    method: str = field(
        "grid: every combination of the values; optuna: a search", choices=("grid", "optuna"), default="grid"
    )
    dry_run: bool = field("list the jobs, their folders and duplicates, and run nothing", default=False)
    keep_going: bool = field("start further jobs after one that was rejected (exit status 2)", default=False)
    resume: str | None = field("the folder of a sweep, or latest: its unfinished jobs are run", default=None)
    jobs: int = field("how many jobs run at once", ge=1, default=1)
    launcher: str = field(
        "local: processes on this machine; slurm: jobs of a cluster", choices=("local", "slurm"), default="local"
    )
    command: str | None = field("the command that runs a job; null: this Python and this train.py", default=None)
    trials: int = field("with method=optuna: how many jobs the search has in all", ge=1, default=30)
    hours: float | None = field("with method=optuna: hours after which no further job starts", gt=0,
                                default=None)  # fmt: skip
    slurm: Slurm = field("the resources that a job requests from Slurm", default_factory=Slurm)


@dataclass(kw_only=True)
class RunConfig(Checked):
    """Base class of a project's root schema: the part of a run's configuration that the runner reads.

    A field whose type is a group of options (a direct subclass of `gradclip.fields.Option`) is a group in conf/.
    """

    clip: Policy = field("how gradients are limited")

    steps: int = field("optimizer steps", ge=1, le=10**12, mutable_on_resume=True)
    seed: int = field("seed of all random numbers", ge=0, le=2**32 - 1)
    log: Log = field("what is logged, and how often")
    checkpoint: Checkpoint = field("when checkpoints are written, and which are kept")
    resume: str | None = field(
        "a run's folder, or latest: the run continues after its last checkpoint, with its saved configuration",
        mutable_on_resume=True,
    )
    sweep: Sweep = field("settings of a sweep, which -m starts", default_factory=Sweep)

    def fixed_steps(self) -> str | None:
        """The reason why a resumed run cannot have another number of steps; None if it can."""
        return None


Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class Project(Generic[Config]):
    """A project that the runner runs.

    schema: the dataclass at the root of its configuration. run: "module:function", called as
    `function(config, run)` with a `Config` and a `runner.runs.run.Run`, and imported only then.
    root: the folder that holds train.py and conf/.
    """

    schema: type[Config]
    run: str
    root: Path

    @property
    def conf(self) -> Path:
        """The folder of the configuration files."""
        return self.root / "conf"

    @property
    def script(self) -> Path:
        """The program that starts a run."""
        return self.root / "train.py"

    @property
    def module(self) -> str:
        """The module of the function that executes a run."""
        return self.run.partition(":")[0]

    @property
    def execute(self) -> Callable[..., None]:
        """The function that executes a run; its module, and with it torch, is imported now."""
        function: Callable[..., None] = getattr(import_module(self.module), self.run.partition(":")[2])
        return function

    @cached_property
    def groups(self) -> dict[str, type[Any]]:
        """The groups of options in conf/ by name, each with the base class of its options."""
        types = {field.name: field_type(self.schema, field.name) for field in dataclasses.fields(self.schema)}
        return {name: base for name, base in types.items() if isinstance(base, type) and issubclass(base, Option)}

    @cached_property
    def path_keys(self) -> frozenset[str]:
        """The dotted keys whose value is the path of a file."""
        return frozenset(name for name, field in self.all_keys() if field.metadata.get("path"))

    @cached_property
    def text_keys(self) -> frozenset[str]:
        """The dotted keys whose value is text, or text or null."""
        return frozenset(name for name, field in self.all_keys() if field.type in (str, str | None))

    def all_keys(self) -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
        """Every dotted key that exists with some choice of options, with its field."""
        return _keys(self.schema, self.groups, "")


def _keys(owner: type, groups: Mapping[str, type[Any]], prefix: str) -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    for field in dataclasses.fields(owner):
        yield prefix + field.name, field
        kind = field_type(owner, field.name)
        if isinstance(kind, type) and issubclass(kind, Checked):
            for option in groups[field.name].options.values() if field.name in groups else [kind]:
                yield from _keys(option, {}, f"{prefix}{field.name}.")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """All values of a checked configuration by their dotted keys."""
    values: dict[str, Any] = {}
    for name, value in (config if isinstance(config, dict) else vars(config)).items():
        inner = isinstance(value, Checked | dict)
        values |= flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return values


def incompatible_keys(earlier: Mapping[str, Any], later: Checked) -> list[str]:
    """The sorted keys whose values differ from an earlier, flattened configuration although they must not.

    Keys that are `mutable_on_resume` in the later configuration may differ.
    """
    values, mutable = flatten(later), set(_mutable(later, ""))
    missing = object()
    names = sorted(name for name in earlier.keys() | values.keys() if name not in mutable)
    return [name for name in names if earlier.get(name, missing) != values.get(name, missing)]


def _mutable(config: Checked, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(config):
        if field.metadata.get("mutable_on_resume"):
            yield prefix + field.name
        elif isinstance(inner := getattr(config, field.name), Checked):
            yield from _mutable(inner, f"{prefix}{field.name}.")


def resolve_paths(config: Checked, base: Path) -> None:
    """Makes every field that is a path absolute, with `~` expanded and links resolved, in place.

    A run can then be resumed from anywhere. base: the folder that relative paths start from.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Checked):
            resolve_paths(value, base)
        elif field.metadata.get("path") and value is not None:
            setattr(config, field.name, str((base / expand_home(value)).resolve()))


def expand_home(path: str) -> Path:
    """The path with `~` at its start replaced by the home directory; unchanged if there is no user of that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
