"""Writes TensorBoard event files in the calling thread, so that a write error is raised where it happens."""

import itertools
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from runner.runs.files import add_path_to_oserror

EVENT_FILES = "events.out.tfevents.*"
FLUSH_SECONDS = 2.0  # between two flushes; until a flush, TensorBoard does not see the events

_numbers = itertools.count()  # distinguishes the files that one process begins within a second


class EventWriter:
    """Writes a new event file into a folder.

    purge_step: TensorBoard discards what it has read of this step and of later ones. Every method raises OSError,
    which names the file, if it cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        host, process = socket.gethostname(), os.getpid()
        self._path = folder / f"events.out.tfevents.{int(time.time()):010}.{host}.{process}.{next(_numbers)}"
        self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        self.add(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self.add(Event(session_log=SessionLog(status=SessionLog.START)), purge_step)
        self.flush()

    def add(self, event: Event, step: int = 0) -> None:
        """Appends an event, after setting its step and its wall time."""
        event.step, event.wall_time = step, time.time()
        with add_path_to_oserror(self._path):
            self._records.write(event.SerializeToString())
        if time.monotonic() > self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Writes buffered events to the file."""
        with add_path_to_oserror(self._path):
            self._file.flush()
        self._next_flush = time.monotonic() + FLUSH_SECONDS

    def close(self) -> None:
        """Flushes and closes the file."""
        with add_path_to_oserror(self._path):
            self._file.close()
