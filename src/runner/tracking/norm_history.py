"""The norms of each parameter's gradient over the steps, thinned out so that a picture of a long run stays small."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.tracking import metrics
from runner.tracking.tags import PARAMETER_BEFORE

COLUMNS = 256  # steps that are kept at most


class NormHistory:
    """Keeps the norms of every `stride`-th step that is added; the stride doubles when COLUMNS are exceeded."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._norms: list[dict[str, float]] = []
        self._added, self._stride = 0, 1

    def add(self, step: int, norms: Mapping[str, float]) -> None:
        """Adds the norms of a step, by parameter."""
        if self._added % self._stride == 0:
            self.steps.append(step)
            self._norms.append(dict(norms))
        self._added += 1
        if len(self.steps) > COLUMNS:
            self.steps, self._norms, self._stride = self.steps[::2], self._norms[::2], 2 * self._stride

    def load(self, folder: Path) -> None:
        """Adds the norms in a run's metrics.jsonl."""
        by_step: dict[int, dict[str, float]] = {}
        for tag, points in metrics.read(folder).items():
            if tag.startswith(PARAMETER_BEFORE):
                for step, norm in points:
                    by_step.setdefault(step, {})[tag.removeprefix(PARAMETER_BEFORE)] = norm
        for step in sorted(by_step):
            self.add(step, by_step[step])

    @property
    def norms(self) -> dict[str, Sequence[float]]:
        """The norms at the kept steps, by parameter; 0 at a step at which a parameter had none."""
        names = dict.fromkeys(name for norms in self._norms for name in norms)
        return {name: [norms.get(name, 0.0) for norms in self._norms] for name in names}
