from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended with exit code 0.

    Attributes:
        exit_code: 0; any other is a
            [CommandExitError][dask_limits.exceptions.CommandExitError].
        stdout: What it wrote to standard output, as text: of more than 64 KiB the end, with a note
            of how many bytes were left out.
        stderr: What it wrote to standard error, as `stdout`.
        output: The files with all of both, if `output` has named them.
    """

    exit_code: int
    stdout: str
    stderr: str
    output: tuple[Path, Path] | None = None
