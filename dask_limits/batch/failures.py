"""The commands that have failed, a line each, for the end of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from dask_limits.batch.ended import Ended
from dask_limits.in_short import cut
from dask_limits.printable import printable

MOST_SHOWN: Final = 10
"""More lines would push the summary from the screen; all are in `results.csv`."""
_LENGTH: Final = 60
"""Characters of a command."""
_MOST_SAID: Final = 200
"""Characters of what it has said."""
_END: Final = 4096
"""Bytes of the end of its standard error in which the last line is looked for."""


def lines_of(failed: Iterable[Ended], folder: Path) -> Iterator[str]:
    """Such as "21 (python fit.py --lr 0.1): exit code 1: ValueError: lr is too large".

    Args:
        failed: The commands.
        folder: Where their output is.
    """
    for ended in sorted(failed, key=lambda ended: ended.item.index):
        command = cut(printable(ended.item.line), _LENGTH)
        said = [printable(ended.cause), _last_line(folder / f"{ended.item.index}.err")]
        yield f"{ended.item.index} ({command}): {': '.join(filter(None, said))}"


def _last_line(path: Path) -> str:
    """The last line of a file that is not blank; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _END, 0))
            text = file.read(_END).decode(errors="replace")
    except OSError:  # it was never started
        return ""
    lines = text.rstrip().splitlines()
    return cut(printable(lines[-1].strip()), _MOST_SAID) if lines else ""
