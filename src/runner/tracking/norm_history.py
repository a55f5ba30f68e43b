"""The norms of each parameter's gradient over the steps, combined so that a picture of a long run stays small."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.tracking import metrics
from runner.tracking.tags import PARAMETER_BEFORE

COLUMNS = 256  # columns that are kept at most


class NormHistory:
    """Keeps the largest norm of every `stride` steps in a row; the stride doubles when there are COLUMNS of them.

    steps: the last step of each column.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._norms: list[dict[str, float]] = []
        self._stride, self._free = 1, 0  # free: how many steps the last column still takes

    def add(self, step: int, norms: Mapping[str, float]) -> None:
        """Adds the norms of a step, by parameter."""
        if self._free:
            self._norms[-1] = _larger(self._norms[-1], norms)
            self.steps[-1] = step
            self._free -= 1
            return
        if len(self.steps) == COLUMNS:
            pairs = zip(self._norms[::2], self._norms[1::2], strict=True)
            self._norms = [_larger(one, other) for one, other in pairs]
            self.steps, self._stride = self.steps[1::2], 2 * self._stride
        self.steps.append(step)
        self._norms.append(dict(norms))
        self._free = self._stride - 1

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
        """The norm of each column, by parameter; 0 where a parameter had none."""
        names = dict.fromkeys(name for norms in self._norms for name in norms)
        return {name: [norms.get(name, 0.0) for norms in self._norms] for name in names}


def _larger(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The larger norm of each parameter; nan and infinity are larger than any number."""
    merged = dict(one)
    for name, norm in other.items():
        kept = merged.get(name, 0.0)
        merged[name] = kept if kept >= norm or kept != kept else norm
    return merged
