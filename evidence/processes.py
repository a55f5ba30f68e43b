"""Resident memory of processes, and what they leave, as Linux tells it in /proc."""

import re
from pathlib import Path


def memory(field: str, pid: int | str = "self") -> float | None:
    """A field of /proc/<pid>/status in MB: VmRSS, now resident, or VmHWM, the most so far; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


def forget_peak() -> None:
    """Sets this process's VmHWM back to what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
