"""The progress bar: loss, norm before and after clipping, share of clipped steps, steps per second, time left."""

from collections.abc import Iterator
from contextlib import nullcontext

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from runner.printable import format_loss
from runner.tracking.tracker import LoggedStep
from trainer.data import Batch
from trainer.history import History

# Without the time elapsed, and with a short bar: the values fit into 80 columns.
FORMAT = "{n_fmt}/{total_fmt}|{bar:8}| {rate_fmt}, {remaining} left{postfix}"


class Progress:
    """A bar over the steps of a run, if the output is a terminal.

    done, steps: the steps that are completed, and those of the whole run. shown: false for no bar in any case.
    """

    def __init__(self, done: int, steps: int, shown: bool):
        disable = None if shown else True  # None: tqdm shows the bar on a terminal only
        self._bar = tqdm(initial=done, total=steps, unit="step", disable=disable, leave=False, dynamic_ncols=True,
                         bar_format=FORMAT)  # fmt: skip

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; each is counted when the next one is requested."""
        # Without a bar, the redirection would print the log twice.
        with self._bar, nullcontext() if self._bar.disable else logging_redirect_tqdm():
            for batch in batches:
                yield batch
                self._bar.update()

    def show(self, logged: LoggedStep, history: History) -> None:
        """Shows the values of a logged step."""
        if not self._bar.disable:
            self._bar.set_postfix_str(describe(logged, history), refresh=False)


def describe(logged: LoggedStep, history: History) -> str:
    """The values of a logged step, and the share of the logged steps so far that were clipped."""
    clipped = 100 * history.clipped / max(history.logged, 1)
    return f"loss {format_loss(logged.loss)}, norm {logged.before:.2g}→{logged.after:.2g}, clipped {clipped:.0f}%"
