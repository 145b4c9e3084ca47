from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dask_limits import command

TASK: Final = "command"
"""The name of the task that runs commands, which the journal knows too."""


class Item:
    """One command of a batch.

    Attributes:
        index: Its number, from 1 on.
        line: The line for the shell.
        parameters: What its template was filled with, by name.
    """

    __slots__ = ("index", "line", "parameters")

    def __init__(self, index: int, line: str, parameters: Mapping[str, str]) -> None:
        self.index = index
        self.line = line
        self.parameters = parameters

    def __reduce__(self) -> tuple[Any, ...]:
        return Item, (self.index, self.line, {})  # where it runs, the line is enough

    def __repr__(self) -> str:
        """Its number and the line, as the live view and the log show them."""
        return f"{self.index}: {self.line}"


class Run:
    """Runs items with their output in files, as a picklable callable.

    Args:
        folder: Where the files are: `1.out`, `1.err`, ...
        count: How many commands there are, if that is known.
        cwd: The folder to run them in.
    """

    __name__ = TASK  # in reports and on the live view

    def __init__(self, folder: Path, count: int | None, cwd: Path) -> None:
        variables = {"DASK_LIMITS_INDEX": "{index}"}
        if count is not None:
            variables["DASK_LIMITS_COUNT"] = str(count)
        self._folder = folder
        self._command = command(
            ["/bin/sh", "-c", "{line}"],
            cwd=escaped(cwd),
            env=variables,
            output=f"{escaped(folder)}/{{index}}.out",
        )

    def __call__(self, item: Item) -> None:
        """Run an item. What it has written is in its files, so nothing of it is sent."""
        self._command(line=item.line, index=item.index)

    def __dask_tokenize__(self) -> str:
        """The same for all batches: a journal knows a command also if its directory was moved."""
        return TASK

    def files(self, index: int) -> tuple[Path, Path]:
        """Where standard output and standard error of a command are."""
        return self._folder / f"{index}.out", self._folder / f"{index}.err"


def escaped(path: Path) -> str:
    """A path as a template."""
    return str(path).replace("{", "{{").replace("}", "}}")
