"""Reports of sweeps: which policy and threshold to take, how certain that is, and what to try next."""

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from runner.errors import UserError, quote_override


def report(sweeps: Sequence[Path], folder: Path | None = None) -> str:
    """Writes report.md, report.html and PNGs into `folder`, by default the first sweep; returns the text to print.

    Raises UserError for a folder without runs, and if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('the report needs matplotlib: pip install -c constraints.txt -e ".[report]"')
    from runner.report import aggregate, plots, render
    from runner.sweeps.results import PLAN_FILE, relative_path, shell_path

    sweeps = [sweep.resolve() for sweep in sweeps]
    folder = sweeps[0] if folder is None else folder
    table = aggregate.build(sweeps)
    figures = plots.draw(table, folder)
    title = "Sweep " + ", ".join(sweep.name for sweep in sweeps)
    planned = next((sweep for sweep in sweeps if (sweep / PLAN_FILE).is_file()), None)
    unfinished = next((trial.result.folder for trial in table.trials if not trial.result.ended), sweeps[0])
    name, target = ("sweep.resume", planned) if planned else ("resume", unfinished)
    resume = shlex.join(["python", "train.py", f"{name}={quote_override(relative_path(target))}"])
    (folder / "report.md").write_text(render.markdown(table, figures, title, resume), encoding="utf-8")
    (folder / "report.html").write_text(render.page(table, figures, title, resume), encoding="utf-8")
    return f"{render.text(table, resume)}\n\n{shell_path(folder / 'report.html')}"
