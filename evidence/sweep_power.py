"""How often a report claims a winner in simulated sweeps; `python evidence/sweep_power.py` writes its page.

Every run's objective is the sum of a mean, the effect of its seed, which all configurations share, and noise. Two
thousand sweeps for each cell, two minutes on one core. The page is evidence/docs/sweep_power.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from evidence import pages
from runner.report.comparison import standing
from tests.sweeps import simulated, table_of

PAGE = pages.DOCS / "sweep_power.md"
CONFIGURATIONS, SEEDS = (2, 3, 6), (3, 5, 10)
LEADS = (0.0, 1.0, 2.0, 3.0, 5.0)  # of the best configuration, in standard deviations of the noise


def main(arguments: list[str] | None = None) -> None:
    parser = pages.parser(__doc__, PAGE)
    parser.add_argument("--sweeps", type=int, default=2000, help="the number of simulated sweeps of each cell")
    args = parser.parse_args(arguments)
    header = ["configurations", "seeds", *("no difference" if not lead else f"{lead:g} sd" for lead in LEADS)]
    rows = [
        [str(count), str(seeds), *(f"{100 * claimed(count, seeds, lead, args.sweeps):.1f} %" for lead in LEADS)]
        for count in CONFIGURATIONS
        for seeds in SEEDS
    ]
    pages.write(args.page, {"power": pages.table(header, rows)})


def claimed(configurations: int, seeds: int, lead: float, sweeps: int) -> float:
    """The share of sweeps in which a winner is claimed. lead: of the first configuration over all others."""
    generator = np.random.default_rng(0)
    count = 0
    for _ in range(sweeps):
        table = table_of(simulated(generator, [-lead] + [0.0] * (configurations - 1), seeds))
        found = standing(table)
        count += found is not None and found.has_winner(table)
    return count / sweeps


if __name__ == "__main__":
    main()
