"""The processes of a soak: the driver, and all that is below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dask_limits.limits.linux.proctree import children_of

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
OURS: Final = "limits-"
"""What the names of our processes begin with: the reaper's, the guardian's, ..."""
NOT_COUNTED: Final = {"tracker", "other"}
"""Python's own helpers, and what calls have started."""


class Seen(NamedTuple):
    """A process at one time."""

    role: str
    pid: int
    memory: int  # bytes that are resident
    files: int
    threads: int


def census() -> list[Seen]:
    """All processes from this one down."""
    return [seen for role, pid in processes() if (seen := look_at(role, pid)) is not None]


def processes() -> Iterator[tuple[str, int]]:
    """The role of each process, and its number; parents before their children."""
    found = [("driver", os.getpid())]
    for role, pid in found:
        yield role, pid
        found += [(role_of(child, role), child) for child in children_of(pid)]


def role_of(pid: int, parents: str) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return "other"
    if name.startswith(OURS):
        return name.removeprefix(OURS)
    if "resource_tracker" in command:
        return "tracker"
    return "worker" if parents == "driver" and "spawn_main" in command else "other"


def look_at(role: str, pid: int) -> Seen | None:
    """None if it has ended meanwhile."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return None
    return Seen(role, pid, resident * PAGE, files, threads) if resident else None
