"""What is told on standard output, which may fail, and at the end of the program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

INTERRUPTED: Final = 130  # as shells report a program that SIGINT ended


@contextmanager
def output() -> Iterator[None]:
    """Report in one sentence that standard output fails, unless its reader has closed it."""
    try:
        yield
    except BrokenPipeError:  # of `| head`, for instance
        discard_output()
    except OSError as error:
        discard_output()
        raise click.ClickException(
            f"The result cannot be shown: standard output fails with {error.strerror!r}."
        ) from None


def discard_output() -> None:
    """Discard what could not be written: Python would try again when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
