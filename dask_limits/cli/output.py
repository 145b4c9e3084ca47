"""What is told on standard output, which may fail, and at the end of the program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

INTERRUPTED: Final = 130  # what a shell gives for a program that SIGINT ended


@contextmanager
def output() -> Iterator[None]:
    """Say in one sentence that standard output fails, unless it is that nobody reads on."""
    try:
        yield
    except BrokenPipeError:  # as of `| head`, which has read enough
        discard_output()
    except OSError as error:
        discard_output()
        raise click.ClickException(
            f"What was found cannot be shown: standard output fails with {error.strerror!r}."
        ) from None


def discard_output() -> None:
    """Let what could not be written go nowhere: Python would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
