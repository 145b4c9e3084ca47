"""Calls that fail. A task process imports this in the time of a call, so it is light."""

from __future__ import annotations

import os
import signal


def fails_at_seven(number: int) -> int:
    if number % 10 == 7:
        raise LookupError(number)
    return -number


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def without_limits() -> None:
    raise LookupError
