"""Reports of sweeps: which configuration to take, how certain that is, and what to run next."""

import importlib.util
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from runner.errors import UserError, quote_override
from runner.report.columns import read

__all__ = ["read", "report"]

PACKAGES = ("matplotlib", "scipy", "tabulate")  # those of the extra `report`


def report(
    sweeps: Sequence[Path], folder: Path | None = None, accepts: Callable[[Sequence[str]], bool] | None = None
) -> str:
    """Writes report.md, report.html and PNGs into `folder`, by default the first sweep; returns the text to print.

    accepts: whether the project accepts a configuration, given as overrides; by default, all are proposed.
    Raises UserError for a folder without runs, and if a package is not installed.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        listed = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        raise UserError(f'the report needs {listed}: pip install -c constraints.txt -e ".[report]"')
    from runner.report import aggregate, plots, render
    from runner.report.conclusion import conclusion
    from runner.sweeps.results import PLAN_FILE, relative_path, shell_path

    sweeps = [sweep.resolve() for sweep in sweeps]
    folder = sweeps[0] if folder is None else folder
    table = aggregate.build(sweeps)
    table.accepts = accepts or table.accepts
    figures = plots.draw(table, folder)
    title = "Sweep " + ", ".join(sweep.name for sweep in sweeps)
    unfinished = next((trial.result.folder for trial in table.trials if not trial.result.ended), sweeps[0])
    planned = unfinished.parent in sweeps and (unfinished.parent / PLAN_FILE).is_file()
    name, target = ("sweep.resume", unfinished.parent) if planned else ("resume", unfinished)
    resume = shlex.join(["python", "train.py", f"{name}={quote_override(relative_path(target))}"])
    sentences = conclusion(table, resume)
    (folder / "report.md").write_text(render.markdown(table, figures, title, sentences), encoding="utf-8")
    (folder / "report.html").write_text(render.page(table, figures, title, sentences), encoding="utf-8")
    return f"{render.text(table, sentences)}\n\n{shell_path(folder / 'report.html')}"
