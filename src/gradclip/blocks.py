"""Which gradients a policy is given, and which of them are measured together."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor
from torch.nn import Parameter

from gradclip.errors import UnmatchedPatternError
from gradclip.norms import combine
from gradclip.policies import Policy


def unique_parameters(named: Iterable[tuple[str, Parameter]]) -> tuple[list[str], list[Parameter]]:
    """The names and the parameters, a tied parameter once, under the first of its names."""
    seen: dict[int, tuple[str, Parameter]] = {}
    for pair in named:
        if isinstance(pair, Tensor):
            raise TypeError("Clipper takes model.named_parameters(), whose names it reports, not model.parameters()")
        seen.setdefault(id(pair[1]), pair)
    if not seen:
        raise ValueError("Clipper was given no parameters; an iterator can be read only once")
    return [name for name, _ in seen.values()], [parameter for _, parameter in seen.values()]


def select(names: Sequence[str], include: Sequence[str], exclude: Sequence[str], field: str = "") -> list[int]:
    """The places of the names that match any of `include` (none given: all) and none of `exclude`.

    Raises UnmatchedPatternError for a pattern that matches nothing.
    """
    for side, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UnmatchedPatternError(field or side, pattern, names)

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return [
        place
        for place, name in enumerate(names)
        if (not include or matches(name, include)) and not matches(name, exclude)
    ]


class Blocks:
    """The selected parameters, and the blocks in which a scope measures them.

    selected: places in the list of all parameters. sizes: [blocks], elements of each block.
    """

    def __init__(self, names: Sequence[str], parameters: Sequence[Parameter], policy: Policy):
        self.selected = select(names, policy.include, policy.exclude)
        count = sum(parameters[place].numel() for place in self.selected)
        self.sizes = parameters[0].detach().new_tensor([float(count)])

    def norms(self, each: Tensor, p: float) -> Tensor:
        """[blocks] from the norm of every selected parameter, [selected]."""
        return combine(each, p).view(1)

    def spread(self, values: Tensor) -> Tensor:
        """[selected]: for every selected parameter the value of its block."""
        return values.expand(len(self.selected))
