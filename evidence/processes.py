"""Resident memory of processes, read from Linux' /proc."""

import re
from pathlib import Path


def memory(field: str, pid: int | str = "self") -> float | None:
    """Reads a field of /proc/<pid>/status in MiB: VmRSS, the resident size, or VmHWM, its peak; None if missing."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) / 1024 if match else None


def forget_peak() -> None:
    """Resets this process's VmHWM to its current resident size."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
