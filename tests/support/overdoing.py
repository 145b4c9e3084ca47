"""Code that goes over limits. A task process imports this in the time of a call, so it is light."""

from __future__ import annotations

import os
import sys
import time


def wait_on() -> None:
    while True:
        time.sleep(0.01)


def spin() -> None:
    while True:
        pass


def grow() -> None:
    blocks = []
    while True:
        blocks.append(bytearray(4_000_000))
        time.sleep(0.001)


def sprout() -> None:
    for _ in range(4):
        if os.fork() == 0:
            time.sleep(600)
    time.sleep(600)


def detach(argv: list[str]) -> None:
    """Start a program that has nothing to do with its starter any more: double fork, setsid."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(argv[0], argv)
        os._exit(0)
    os.wait()


SPIN = [sys.executable, "-c", "while True: pass"]
GROW = [
    sys.executable,
    "-c",
    "import time\nb = []\nwhile True: b.append(bytearray(4_000_000)); time.sleep(0.001)",
]


def wait_on_detached() -> None:
    detach(["/bin/sleep", "600"])
    time.sleep(600)


def spin_detached() -> None:
    detach(SPIN)
    time.sleep(600)


def grow_detached() -> None:
    detach(GROW)
    time.sleep(600)


def sprout_detached() -> None:
    for _ in range(3):
        detach(["/bin/sleep", "600"])
    time.sleep(600)
