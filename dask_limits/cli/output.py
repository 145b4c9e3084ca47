"""What the commands share about the end of the program."""

from __future__ import annotations

import os
import sys
from typing import Final

INTERRUPTED: Final = 130  # as shells report a program that SIGINT ended


def discard_output() -> None:
    """Discard what could not be written: Python would try again when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
