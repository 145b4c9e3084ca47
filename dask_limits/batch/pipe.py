from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from dask_limits.batch.item import Item

_WHOLE: Final = "commands"
_UNFINISHED: Final = "commands.unfinished"


class Copy:
    """The commands that came from a pipe, in a file of the directory of results.

    Its name ends in ".unfinished" until the pipe has ended.

    Args:
        folder: The directory of results.
    """

    def __init__(self, folder: Path) -> None:
        self._whole = folder / _WHOLE
        self._unfinished = folder / _UNFINISHED

    @property
    def is_whole(self) -> bool:
        """Whether the pipe had ended when the batch did."""
        return self._whole.exists()

    @property
    def path(self) -> Path:
        """The file, as it is called now."""
        return self._whole if self.is_whole else self._unfinished

    def write(self, items: Iterable[Item]) -> Iterator[Item]:
        """Write commands down, each before it runs."""
        with self._unfinished.open("wb") as file:
            for item in items:
                file.write(os.fsencode(item.line) + b"\n")
                file.flush()
                yield item
        self._unfinished.rename(self._whole)
