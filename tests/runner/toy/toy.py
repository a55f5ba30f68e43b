"""The configuration of a minimal project for the tests of the runner. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from gradclip.fields import Option
from runner.config import Project, RunConfig, field
from runner.errors import UserError


@dataclass(kw_only=True)
class Schedule(Option):
    """Base of the options of the group `schedule`."""


@dataclass(kw_only=True)
class Constant(Schedule):
    name: str = "constant"


@dataclass(kw_only=True)
class Linear(Schedule):
    name: str = "linear"
    final: float = field("the share of lr at the last step", ge=0, le=1)


@dataclass(kw_only=True)
class Toy(RunConfig):
    """Trains a linear map of three inputs towards one whose weights all equal `target`."""

    schedule: Schedule = field("how the learning rate changes")
    target: float = field("the value of all weights of the target")
    lr: float = field("learning rate", gt=0)
    evaluate_every: int = field("steps between two evaluations", ge=1, mutable_on_resume=True)
    initial: str | None = field("a file with the initial value of all weights; null: random weights", path=True)
    incident: str | None = field(
        "a file that names an incident and the step before which it happens: wait 3, bug 0 or kill 3",
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
