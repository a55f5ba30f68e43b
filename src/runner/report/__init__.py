"""A sweep's answer: which policy and which threshold to take, how sure that is, and what to try next."""

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from runner.errors import UserError, quote_override


def report(sweeps: Sequence[Path], folder: Path | None = None) -> str:
    """Writes report.md, report.html and PNGs into `folder`, by default the first sweep; returns what is to be printed.

    Raises UserError for a folder without runs, and where matplotlib is absent.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('the report needs matplotlib: pip install -c constraints.txt -e ".[report]"')
    from runner.report import aggregate, plots, render
    from runner.sweeps.results import PLAN, relative_path, shell_path

    sweeps = [sweep.resolve() for sweep in sweeps]
    folder = sweeps[0] if folder is None else folder
    table = aggregate.build(sweeps)
    drawn = plots.draw(table, folder)
    title = "Sweep " + ", ".join(sweep.name for sweep in sweeps)
    again = next((sweep for sweep in sweeps if (sweep / PLAN).is_file()), None)
    command = ["python", "train.py", f"sweep.resume={quote_override(relative_path(again))}"] if again else []
    resume = shlex.join(command or ["python", "train.py", "resume=RUN"])
    (folder / "report.md").write_text(render.markdown(table, drawn, title, resume), encoding="utf-8")
    (folder / "report.html").write_text(render.page(table, drawn, title, resume), encoding="utf-8")
    return f"{render.text(table, resume)}\n\n{shell_path(folder / 'report.html')}"
