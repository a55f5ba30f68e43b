"""Schedules: the learning rate as a function of the step alone."""

import math
from collections.abc import Callable

import pytest

from tests.trainer.options import option, option_names
from trainer import schedules


def factors_of(name: str, steps: int, **values: float) -> list[float]:
    factor = schedules.build(option("schedule", name, **values), steps)
    return [factor(step) for step in range(1, steps + 1)]


@pytest.mark.parametrize("name", option_names("schedule"))
def test_every_schedule_warms_up_linearly_to_the_full_rate(name: str) -> None:
    assert factors_of(name, 10, warmup=4)[:5] == [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1.0]
    assert factors_of(name, 4, warmup=4) == [1 / 5, 2 / 5, 3 / 5, 4 / 5]


@pytest.mark.parametrize("name", option_names("schedule"))
def test_every_factor_is_between_0_and_1_and_the_first_is_1(name: str) -> None:
    for steps in (1, 2, 3, 50):
        factors = factors_of(name, steps)
        assert factors[0] == 1.0
        assert all(0 <= factor <= 1 for factor in factors)


@pytest.mark.parametrize("name", option_names("schedule"))
def test_only_a_schedule_that_spans_all_steps_depends_on_their_number(name: str) -> None:
    config = option("schedule", name)
    assert (factors_of(name, 20)[:10] != factors_of(name, 10)) is config.spans_all_steps


FORMULAS: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


@pytest.mark.parametrize("name", sorted(FORMULAS.keys() & set(option_names("schedule"))))
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_rates_are_bit_by_bit_those_of_the_formula(name: str, warmup: int) -> None:
    for steps in (7, 8, 100, 1501):
        for final in (0.0, 0.05, 1.0) if name != "constant" else (0.0,):
            values = {} if name == "constant" else {"final": final}
            factors = factors_of(name, steps, warmup=warmup, **values)
            for step, factor in enumerate(factors[warmup:], start=warmup + 1):
                done = (step - warmup - 1) / max(steps - warmup - 1, 1)
                left = FORMULAS[name](done)
                assert factor == (left if name == "constant" else final + (1 - final) * left)
