"""What a batch writes of the commands that have ended."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from dask_limits.batch.ended import Ended

_COLUMNS: Final[Mapping[str, Callable[[Ended], object]]] = {
    "index": lambda ended: ended.item.index,
    "command": lambda ended: _text(ended.item.line),
    "parameters": lambda ended: json.dumps(ended.item.parameters) if ended.item.parameters else "",
    "exit_code": lambda ended: ended.exit_code,
    "ending": lambda ended: ended.ending,
    "cause": lambda ended: _text(ended.cause),
    "wall_time_s": lambda ended: ended.usage and f"{ended.usage.wall_time:.3f}",
    "cpu_time_s": lambda ended: ended.usage and f"{ended.usage.cpu_time:.3f}",
    "peak_memory_bytes": lambda ended: ended.usage and ended.usage.peak_memory,
    "host": lambda ended: ended.host,
    "job": lambda ended: ended.job,
    "tries": lambda ended: ended.tries,
}


class Writer:
    """Takes commands that have ended. Its methods raise OSError, with the name of the file."""

    def open(self) -> None:
        """Begin: no other batch writes there now."""

    def add(self, ended: Ended) -> None:
        """Write what there is to write of a command."""

    def skip(self, index: int) -> None:
        """Take note that a command was cancelled."""

    def close(self) -> None:
        """Write no more."""


class ResultsFile(Writer):
    """`results.csv`, a row for each command."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def open(self) -> None:
        """Begin a new file."""
        # To append: if it is emptied by anything meanwhile, no hole is left.
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._file.truncate(0)
        self._writer = csv.writer(self._file)
        self._write(_COLUMNS)

    def add(self, ended: Ended) -> None:
        """Write the row of a command."""
        self._write(value_of(ended) for value_of in _COLUMNS.values())

    def _write(self, row: Iterable[object]) -> None:
        try:
            self._writer.writerow(row)
            self._file.flush()  # whoever reads it meanwhile finds whole rows
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # closing retries a write that `add` has reported
            if self._file is not None:
                self._file.close()


class Printed(Writer):
    """Standard output and standard error of the commands, each in one piece, on ours.

    Args:
        files: Where those of a command are. They are removed.
    """

    def __init__(self, files: Callable[[int], tuple[Path, Path]]) -> None:
        self._files = files

    def open(self) -> None:
        """Write what Python still has for standard output.

        Raises:
            OSError: if one of the two is closed.
        """
        self._streams = (standard_stream(sys.stdout), standard_stream(sys.stderr))

    def add(self, ended: Ended) -> None:
        """Print what a command has written."""
        for path, stream in zip(self._files(ended.item.index), self._streams, strict=True):
            try:
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size:
                        shutil.copyfileobj(file, stream)
                        stream.flush()
                path.unlink()
            except FileNotFoundError:  # it was never started
                pass
        if ended.has_failed:
            what = f"command {ended.item.index} ({ended.item.line}) {ended.ending}: {ended.cause}"
            sys.stderr.write(f"dask-limits: {_text(what)}\n")
            sys.stderr.flush()


def standard_stream(stream: TextIO | None) -> BinaryIO:
    """Standard output or standard error for bytes, of which it writes all or raises OSError.

    Those of Python may write a part: with PYTHONUNBUFFERED they have no buffer.
    """
    if stream is None:
        raise OSError(errno.EBADF, "standard output or standard error is closed")
    stream.flush()
    return open(stream.fileno(), "wb", closefd=False)


class InOrder(Writer):
    """Hands on commands in their order: each waits for those before it.

    Args:
        writer: To whom.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._next = 1
        self._waiting: dict[int, Ended | None] = {}

    def open(self) -> None:
        """Begin."""
        self._writer.open()

    def add(self, ended: Ended) -> None:
        """Hand on a command, and those that have waited for it."""
        self._put(ended.item.index, ended)

    def skip(self, index: int) -> None:
        """Wait no longer for a command: it was cancelled."""
        self._put(index, None)

    def _put(self, index: int, ended: Ended | None) -> None:
        self._waiting[index] = ended
        while self._next in self._waiting:
            if (following := self._waiting.pop(self._next)) is not None:
                self._writer.add(following)
            self._next += 1

    def close(self) -> None:
        """Hand on what still waits, as nothing comes before it any more."""
        for _, ended in sorted(self._waiting.items()):
            if ended is not None:
                self._writer.add(ended)
        self._writer.close()


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
