from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import psutil
import pytest

collect_ignore_glob = ["*/conftest.py"]  # pytest would look for doctests in them, by one name


def pytest_collection_finish() -> None:
    """Spare what is there by now, for good, from each look at what a test has left: 0.2 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test after which a process, a thread of ours or an open file is left that it made."""
    before = _children(), _open_files()
    yield
    if "dask_limits.limits.owner.guardian" in sys.modules:
        sys.modules["dask_limits.limits.owner.guardian"].default_guardian().close()
    left = _wait_for_nothing(lambda: _left(*before), seconds=10)
    assert not left, f"left behind: {left}"


def _left(children: dict[int, str], files: dict[str, str]) -> list[str]:
    gc.collect()
    ours = [f"thread {t.name}" for t in threading.enumerate() if t.name.startswith("dask-limits")]
    processes = [f"process {what}" for what in _children(apart_from=children).values()]
    opened = [f"file {fd}: {what}" for fd, what in _open_files().items() if files.get(fd) != what]
    if _dask_clients():  # they keep connections, to be used again
        opened = [what for what in opened if "socket:" not in what]
    return ours + processes + opened


def _wait_for_nothing(look: Callable[[], list[str]], seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _children(apart_from: Collection[int] = ()) -> dict[int, str]:
    """All processes below this one, apart from some and what these have started."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        try:
            what = " ".join(child.cmdline()) or f"{child.name()} ({child.status()})"
            family = {child.pid, *(parent.pid for parent in child.parents())}
        except psutil.NoSuchProcess:
            continue
        # These of multiprocessing and loky stay for as long as the process that started them.
        if "resource_tracker" in what or "forkserver" in what:
            continue
        if family.isdisjoint(apart_from):
            found[child.pid] = f"{child.pid} {what}"
    return found


def _dask_clients() -> bool:
    """Whether a fixture of a wider scope holds a client of Dask."""
    return "distributed" in sys.modules and bool(sys.modules["distributed"].Client._instances)


def _open_files() -> dict[str, str]:
    trackers = {
        str(tracker._fd)
        for name in ("multiprocessing.resource_tracker", "loky.backend.resource_tracker")
        if name in sys.modules and (tracker := sys.modules[name]._resource_tracker)
    }
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            what = str(link.readlink())
        except FileNotFoundError:  # the one that lists this directory
            continue
        if link.name not in trackers:
            found[link.name] = what
    return found
