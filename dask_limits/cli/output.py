"""What the commands share about the end of the program."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Final

INTERRUPTED: Final = 130  # as shells report a program that SIGINT ended


def discard_output() -> None:
    """Discard what could not be written: Python would try again when it exits."""
    if sys.stdout is None:  # it is closed
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end this process at once, while nothing runs yet.

    For imports: a library can swallow a KeyboardInterrupt, or raise an ImportError instead.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
