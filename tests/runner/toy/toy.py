"""The configuration of the smallest project that the runner runs. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from gradclip.fields import Option
from runner.config import Project, RunConfig, field
from runner.errors import UserError


@dataclass(kw_only=True)
class Schedule(Option):
    """How the learning rate changes: the toy's one group of options of its own."""


@dataclass(kw_only=True)
class Constant(Schedule):
    name: str = "constant"


@dataclass(kw_only=True)
class Linear(Schedule):
    name: str = "linear"
    final: float = field("the share of lr at the last step", ge=0, le=1)


@dataclass(kw_only=True)
class Toy(RunConfig):
    """A linear map of three inputs is trained towards one whose weights all have the value `target`."""

    schedule: Schedule = field("how the learning rate changes")
    target: float = field("the value of all weights of the map that is learned")
    lr: float = field("learning rate", gt=0)
    evaluate_every: int = field("steps between two evaluations", ge=1, mutable_on_resume=True)
    initial: str | None = field("a file with the number that all weights start from; null draws them", path=True)
    incident: str | None = field(
        "a file that may say what is to go wrong before which step: wait 3, bug 0 or kill 3",
        path=True,
        mutable_on_resume=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate_every > self.steps:
            raise UserError(f"evaluate_every={self.evaluate_every}: is more than steps={self.steps}")

    def fixed_steps(self) -> str | None:
        """A linear schedule reaches its end at the last step."""
        return None if self.schedule.name == "constant" else f"schedule={self.schedule.name} spans all steps"


PROJECT = Project(schema=Toy, run="tests.runner.toy.loop:execute", root=Path(__file__).parent)
