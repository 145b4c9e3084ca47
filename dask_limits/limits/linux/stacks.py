"""How a process that runs calls writes its Python stacks, when it crashes and when it is asked."""

from __future__ import annotations

import faulthandler
import signal
from typing import Final

SIGNAL: Final = signal.SIGRTMAX - 2
"""On this they are written; chosen to be nobody else's."""


def write_to(fd: int) -> None:
    """Write the stack of each thread to this file."""
    faulthandler.enable(fd)
    faulthandler.register(SIGNAL, fd, all_threads=True)
