"""Where the commands of a batch come from: the lines of a file, or a template and its values."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from dask_limits import Command
from dask_limits.batch.item import Item

_MOST: Final = 10_000_000
"""Values, or combinations of values. A typing error may ask for more than memory has room for."""
_LONGEST: Final = 128 * 1024 - 1
"""Bytes of one argument, MAX_ARG_STRLEN in execve(2)."""
_RANGE: Final = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?", re.ASCII)
_NUMBER: Final = r"-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_FRACTIONS: Final = re.compile(
    rf"{_NUMBER}\.\.{_NUMBER}(?:\.\.{_NUMBER})?", re.ASCII | re.IGNORECASE
)
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class SourceError(Exception):
    """Commands cannot be read; the message is one sentence."""


class Lines:
    """A command a line. Lines that are blank or begin with "#" are passed over.

    Args:
        file: What they are read from.
        name: What it is called.
        only_ended: Whether to pass over a last line without its end.
    """

    def __init__(self, file: IO[bytes], name: str, *, only_ended: bool = False) -> None:
        self._file = file
        self._name = name
        self._only_ended = only_ended

    def __iter__(self) -> Iterator[Item]:
        index = 0
        for number, raw in enumerate(self._file, 1):
            if self._only_ended and not raw.endswith(b"\n"):
                return
            line = raw.removeprefix(BOM_UTF8 if number == 1 else b"").strip()
            if not line or line.startswith(b"#"):
                continue
            index += 1
            yield Item(index, checked(line, f"{self._name}, line {number}"), {})


def checked(line: bytes, where: str) -> str:
    """A line that a shell can be given.

    Raises:
        SourceError: if there is none such.
    """
    if b"\0" in line:
        raise SourceError(f"{where} has a NUL character: is this a text file?")
    if len(line) > _LONGEST:
        raise SourceError(
            f"{where} has {len(line):,} bytes, and Linux takes {_LONGEST:,}: put it into a script."
        )
    return os.fsdecode(line)


class Combinations:
    """A template, once for each combination of values. The last parameter changes first.

    Example:
        >>> from dask_limits import command
        >>> for item in Combinations(command("run {a} {b}"), {"a": ["x", "y"], "b": ["1", "2"]}):
        ...     print(item.index, item.line)
        1 run x 1
        2 run x 2
        3 run y 1
        4 run y 2
    """

    def __init__(self, template: Command, values: Mapping[str, Sequence[str]]) -> None:
        self._template = template
        self._values = values

    def __iter__(self) -> Iterator[Item]:
        for index, values in enumerate(itertools.product(*self._values.values()), 1):
            parameters = dict(zip(self._values, values, strict=True))
            yield filled(self._template, index, parameters, f"Combination {index}")


class Table:
    """A template, once for each row of a CSV file whose first line names the columns."""

    def __init__(
        self, template: Command, file: IO[bytes], name: str, fields: Iterable[str]
    ) -> None:
        self._template = template
        self._file = file
        self._name = name
        self._fields = set(fields)

    def __iter__(self) -> Iterator[Item]:
        text = io.TextIOWrapper(self._file, newline="", encoding="utf-8-sig")
        try:
            yield from self._items(csv.reader(text))
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{self._name} is not a CSV file in UTF-8: {error}.") from None
        finally:
            text.detach()  # it would close the file

    def _items(self, reader: Iterator[list[str]]) -> Iterator[Item]:
        columns = next(reader, [])
        if len(set(columns)) < len(columns):
            raise SourceError(f"{self._name} has two columns of one name.")
        if missing := sorted(self._fields - {*columns}):
            raise SourceError(
                f"{self._name} has no column {', '.join(missing)}; it has {', '.join(columns)}."
            )
        index = 0
        for row in reader:
            where = f"{self._name}, line {getattr(reader, 'line_num', 0)},"
            if not row:
                continue
            if len(row) != len(columns):
                raise SourceError(f"{where} has {len(row)} values for {len(columns)} columns.")
            index += 1
            yield filled(
                self._template, index, dict(zip(columns, row, strict=True)), where, self._fields
            )


def filled(
    template: Command,
    index: int,
    parameters: Mapping[str, str],
    where: str,
    fields: set[str] | None = None,
) -> Item:
    """The command of these parameters, of which the template may have some only."""
    used = {n: v for n, v in parameters.items() if fields is None or n in fields}
    try:
        line = template.line(**used)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{where}: {str(error).rstrip('.')}.") from None
    assert isinstance(line, str)
    return Item(index, checked(os.fsencode(line), where), parameters)


def parse_parameter(text: str) -> tuple[str, Sequence[str]]:
    """A name and its values: "lr=0.1,0.01", "seed=1..10", "seed=0..100..10".

    Raises:
        SourceError: if it is none of these.

    Example:
        >>> parse_parameter("seed=1..3,10")
        ('seed', ['1', '2', '3', '10'])
    """
    name, equals, values = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise SourceError(f"--param {text!r} is not of the form name=value,value or name=1..10.")
    return name, [value for part in values.split(",") for value in _values(part, text)]


def _values(part: str, text: str) -> Iterable[str]:
    if not (match := _RANGE.fullmatch(part)):
        if _FRACTIONS.fullmatch(part):
            raise SourceError(
                f"--param {text!r}: a range is of whole numbers, such as 1..10 or 0..100..10. Write"
                " the values with commas, as in lr=0.1,0.2,0.5, or give them by --csv."
            )
        return [part]
    first, last = int(match[1]), int(match[2])
    step = abs(int(match[3] or 1))
    if not step:
        raise SourceError(f"--param {text!r} has a step of 0.")
    if abs(last - first) // step >= _MOST:
        raise SourceError(f"--param {text!r} has more than {_MOST:,} values.")
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return map(str, numbers)


class Source:
    """The commands of a batch.

    Args:
        file: The name of the file with commands, "-" for standard input; or the template, if there
            are parameters or a table.
        params: As `parse_parameter` takes them.
        table: The CSV file.
        cwd: What names are relative to.
        copy: The file with the commands that came from a pipe, if the batch is resumed.

    Attributes:
        is_piped: Whether they come from a pipe, or came from one.
        waits: Whether commands may take long to come.
        count: How many there are; None if that is not known.

    Raises:
        SourceError: if there can be no commands, or a line of a file can be none.
    """

    def __init__(
        self,
        file: str,
        params: Sequence[str],
        table: Path | None,
        cwd: Path,
        copy: Path | None = None,
    ) -> None:
        self.is_piped = copy is not None
        self._copied: IO[bytes] | None = None
        self._made: Iterable[Item] | None = None
        if params or table is not None:
            self._made = self._of_template(file, params, table)
        elif copy is not None:
            self._made = Lines(self._copy(copy, str(copy)), str(copy), only_ended=True)
        elif file == "-":
            self.is_piped = True
            if sys.stdin is None:
                raise SourceError("Standard input is closed.")
        elif (cwd / file).is_file():
            self._made = Lines(self._copy(cwd / file, file), file)
        elif (cwd / file).is_dir():
            raise SourceError(f"{file} is a directory, not a file with commands.")
        elif not (cwd / file).exists():
            hint = ", or is it a template, without --param or --csv?" if " " in file else "."
            raise SourceError(f"There is no file {file}{hint}")
        else:
            self.is_piped = True
        self._pipe = 0 if file == "-" else cwd / file
        self.waits = self._made is None
        self.count = None if self.waits else sum(1 for _ in self.items())

    def items(self) -> Iterator[Item]:
        """The commands, as they are read."""
        if self._made is not None:
            if self._copied is not None:
                self._copied.seek(0)
            yield from self._made
            return
        name = str(self._pipe) if self._pipe else "standard input"
        try:
            with open(self._pipe, "rb", closefd=self._pipe != 0) as file:
                yield from Lines(file, name)
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}.") from None

    def _copy(self, path: Path, name: str) -> IO[bytes]:
        """What a file has now: what it has later may begin in the middle of a line."""
        try:
            self._copied = io.BytesIO(path.read_bytes())
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}.") from None
        return self._copied

    def _of_template(self, text: str, params: Sequence[str], table: Path | None) -> Iterable[Item]:
        try:
            template = Command(text)
        except ValueError as error:
            raise SourceError(f"{str(error).rstrip('.')}.") from None
        if numbered := [field for field in template.fields if isinstance(field, int)]:
            raise SourceError(
                f"The template has {{}} or {{{numbered[0]}}}; its fields are names of parameters."
            )
        fields = [str(field) for field in template.fields]
        if table is not None:
            return Table(template, self._copy(table, str(table)), str(table), fields)
        pairs = [parse_parameter(param) for param in params]
        values = dict(pairs)
        if len(values) < len(pairs):
            raise SourceError("--param names a parameter twice.")
        if wrong := sorted(template.fields ^ values.keys(), key=str):
            raise SourceError(
                f"{{{wrong[0]}}} must be both in the template and a --param: {text!r} has the"
                f" fields {', '.join(sorted(fields)) or '(none)'}."
            )
        if math.prod(map(len, values.values())) > _MOST:
            raise SourceError(f"The values of --param have more than {_MOST:,} combinations.")
        return Combinations(template, values)
