"""What the calls of a soak do. Processes import this module: its functions go by reference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple


class Item(NamedTuple):
    """The argument of a call: its number, what it is to do, and something to carry."""

    number: int
    kind: str = "plain"
    load: bytes = b""


def act(item: Item) -> Item:
    """Do what this call is to do, and return what it was given."""
    if item.kind in DEEDS:
        DEEDS[item.kind](item)
    return item


def sleep(_: Item) -> None:
    time.sleep(60)


def spin(_: Item) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass


def grow(_: Item) -> None:
    blocks = []
    while True:
        blocks.append(b"x" * 2_000_000)
        time.sleep(0.001)


def sprout(_: Item) -> None:
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(4)]
    for sleeper in sleepers:
        sleeper.wait()


def crash(_: Item) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(_: Item) -> None:
    """End the process of the call."""
    os._exit(3)


def fail(item: Item) -> None:
    raise LookupError(item.number)


def litter(_: Item) -> None:
    """Leave a detached process, a thread, an open file and some settings behind."""
    subprocess.Popen(["sleep", "60"], start_new_session=True)
    threading.Thread(target=time.sleep, args=[60], daemon=True).start()
    kept: Any = sys
    kept.left_by_a_call = tempfile.TemporaryFile()  # noqa: SIM115  # that is the point
    os.environ["LEFT_BY_A_CALL"] = "1"
    os.chdir("/")


DEEDS = {
    "cancel": sleep,
    "wall": sleep,
    "cpu": spin,
    "memory": grow,
    "processes": sprout,
    "crash": crash,
    "exit": leave,
    "raise": fail,
    "litter": litter,
}
