"""How long threads waited for a processor that other work had, as Linux counts it.

A latency measured on a busy machine is that of its neighbours. The kernel keeps, for each thread, the
time on a processor and the time that it was ready and had none (``/proc/PID/task/TID/schedstat``, see
the kernel's *Scheduler Statistics*); elsewhere nothing is known, and nothing is taken off.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_NANOSECONDS = 1e9


class Times(NamedTuple):
    """Seconds since a thread began."""

    running: float
    waiting: float


def threads(process: int) -> dict[int, Times]:
    """Times of each thread of a process by its number; empty where the system does not tell."""
    found = {}
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            running, waiting, _ = path.read_text("ascii").split()
        except (OSError, ValueError):
            continue  # it has ended, or the kernel does not count
        found[int(path.parent.name)] = Times(int(running) / _NANOSECONDS, int(waiting) / _NANOSECONDS)
    return found


def waited(before: dict[int, Times], after: dict[int, Times]) -> float:
    """Seconds that the thread which worked most between two looks was ready and had no processor.

    Only that one's: what threads waited side by side does not add up.
    """
    grown = [
        Times(now.running - then.running, now.waiting - then.waiting)
        for number, now in after.items()
        if (then := before.get(number)) is not None
    ]
    return max(grown, default=Times(0.0, 0.0)).waiting
