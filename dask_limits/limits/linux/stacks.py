"""Makes a process write its Python stacks when it crashes, and when it gets a signal."""

from __future__ import annotations

import faulthandler
import signal
from typing import Final

SIGNAL: Final = signal.SIGRTMAX - 2
"""The signal; one that others are unlikely to use."""


def write_to(fd: int) -> None:
    """Write the stack of each thread to this file."""
    faulthandler.enable(fd)
    faulthandler.register(SIGNAL, fd, all_threads=True)
