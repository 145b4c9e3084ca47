"""The file of a journal: SQLite, with a row for each call that has ended."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from dask_limits.exceptions import JournalError
from dask_limits.journal.code import PYTHON
from dask_limits.journal.file_system import is_shared
from dask_limits.journal.owner import check_folder, check_owner

FORMAT: Final = 1
"""The version of what is below. A file of a later one is refused."""
_APPLICATION: Final = 0x646C6A31
"""What tells a journal from other SQLite files: "dlj1"."""
_BUSY_S: Final = 300.0
"""How long to wait for another process that reads or writes the file at the moment."""

_VALUE: Final = re.compile(r"([0-9a-f]{32})-([0-9]{1,18})\.(pickle|part)")
"""The name of the file of a value: the identity and the number of its call."""
_BESIDE: Final = ("-journal", "-wal", "-shm")
BLOCK: Final = 64
"""Rows that are read at a time: calls that come back do so in about the order of their numbers."""

_TABLES: Final = """
CREATE TABLE functions (
    id INTEGER PRIMARY KEY, task TEXT, version TEXT, python TEXT, since REAL,
    UNIQUE (task, version, python));
CREATE TABLE calls (
    number INTEGER PRIMARY KEY,
    call BLOB,
    task TEXT, key TEXT, arguments TEXT,
    ending INTEGER, cause TEXT, kind TEXT, place TEXT,
    wall_time REAL, cpu_time REAL, peak_memory INTEGER, num_processes INTEGER, exit_code INTEGER,
    stdout TEXT, stderr TEXT, started REAL,
    memory_limit INTEGER, wall_time_limit REAL, cpu_time_limit REAL, num_processes_limit INTEGER,
    cores INTEGER,
    worker TEXT, job TEXT, submitted REAL, ended REAL, attempts INTEGER,
    value BLOB, is_in_file INTEGER, checksum INTEGER);
"""


class CallRow(NamedTuple):
    """A call that has ended, as it is kept: the columns of the table, in their order.

    Attributes:
        number: Calls were told in the order of their numbers.
        call: Its identity.
        value: The pickle of what it returned, or of what it raised; None if that was impossible.
        is_in_file: Whether the value is in a file of its own.
        checksum: Of the call, its ending and its value. SQLite has none.
    """

    number: int
    call: bytes
    task: str
    key: str
    arguments: str
    ending: int
    cause: str
    kind: str
    place: str
    wall_time: float | None
    cpu_time: float | None
    peak_memory: int | None
    num_processes: int | None
    exit_code: int | None
    stdout: str | None
    stderr: str | None
    started: float | None
    memory_limit: int | None
    wall_time_limit: float | None
    cpu_time_limit: float | None
    num_processes_limit: int | None
    cores: int | None
    worker: str
    job: str
    submitted: float
    ended: float
    attempts: int
    value: bytes | None
    is_in_file: int
    checksum: int


_ADD: Final = f"INSERT INTO calls VALUES ({','.join('?' * len(CallRow._fields))})"


class FunctionRow(NamedTuple):
    """A version of the function of a task, since when it is known, and of which Python it is."""

    task: str
    version: str
    python: str
    since: float


class Store:
    """A journal's file.

    It may be used in several threads, each with a connection of its own: `connected()`.

    Raises:
        JournalError: if the file is no journal, is damaged, of a later version, or of another user.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.values = Path(f"{path}.values")
        self._writes = writes
        with self.explained():
            check_folder(path.parent)
            if writes:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            check_owner(path)
            self._check_others()
            with closing(self.connect()) as connection:
                if writes and connection.execute("PRAGMA schema_version").fetchone()[0] == 0:
                    self._make(connection)
                    self._check_others()  # SQLite has removed one, as the file was empty
                self._check(connection)
            self._inode = path.stat().st_ino

    def _check_others(self) -> None:
        """Check the files that SQLite has beside, whose content would become that of the journal.

        The one who writes makes them, so that nobody else can do so now. None that is there is
        opened: closing it would release the locks of another connection of this process.
        """
        for path in (Path(f"{self.path}{end}") for end in _BESIDE):
            try:
                if self._writes:
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(path, flags, 0o600))
                check_owner(path)
            except FileExistsError:
                check_owner(path)
            except FileNotFoundError:
                pass

    def _make(self, connection: sqlite3.Connection) -> None:
        """Make the tables."""
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id={_APPLICATION};"
            f" PRAGMA user_version={FORMAT}; COMMIT;"
        )
        sync_folder(self.path.parent)

    def check_is_there(self) -> None:
        """Check that the file was not removed or replaced since.

        Raises:
            JournalError: if it was.
        """
        try:
            is_there = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise JournalError(f"The journal {self.path} was removed or replaced meanwhile")

    def close(self) -> None:
        """Remove what only a connection needs. For the one who writes, when all are closed."""
        Path(f"{self.path}-journal").unlink(missing_ok=True)

    @property
    def is_shared(self) -> bool:
        """Whether it is on a file system of several machines, where there is no WAL."""
        return is_shared(self.path)

    def connect(self) -> sqlite3.Connection:
        """A connection for one thread at a time."""
        # Not opened to read only: what is read may have to be recovered from the log first.
        connection = sqlite3.connect(
            f"{self.path.resolve().as_uri()}?mode=rw",
            uri=True,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        # What is committed is on the disk. WAL alone would lose the last groups with the power.
        connection.execute("PRAGMA synchronous=FULL")
        if self._writes:
            # A shared file system has no memory that processes of several machines share.
            connection.execute(f"PRAGMA journal_mode={'TRUNCATE' if self.is_shared else 'WAL'}")
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application != _APPLICATION:
            raise JournalError(f"{self.path} is another program's database. Give another name.")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise JournalError(
                f"{self.path} was written by a later version of dask_limits: its format is {found},"
                f" and this version knows {FORMAT}. Use that version, or another file."
            )
        if not self._writes:  # the check would hold up the one who writes
            return
        said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if said != "ok":
            raise self.damaged(said)

    def damaged(self, why: object) -> JournalError:
        """The error for a damaged file."""
        return JournalError(
            f"The journal {self.path} is damaged ({why}). What can still be read of it:"
            f" `sqlite3 {self.path} .recover`. To begin anew, move it away."
        )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what SQLite and the system raise as a JournalError that says what to do."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._explained(error) from error
        except UnicodeDecodeError as error:  # SQLite does not check that a text is one
            raise self.damaged(error) from error

    def _explained(self, error: sqlite3.DatabaseError | OSError) -> JournalError:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith("SQLITE_NOTADB"):
            return JournalError(
                f"{self.path} is not a journal of dask_limits, or its beginning is damaged. Give"
                " another name."
            )
        if code.startswith("SQLITE_CORRUPT"):
            return self.damaged(error)
        why = getattr(error, "strerror", None) or error
        return JournalError(
            f"The journal {self.path} cannot be {'written' if self._writes else 'read'}: {why}"
        )

    # -- rows ------------------------------------------------------------------------------

    @staticmethod
    def add(
        connection: sqlite3.Connection,
        rows: Sequence[Sequence[Any]],
        instead_of: Iterable[int] = (),
    ) -> None:
        """Add calls, and remove those that have run again, by their numbers; all or nothing."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            try:
                connection.executemany(_ADD, rows)
            except (UnicodeEncodeError, OverflowError):
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_ADD, [[_stored(value) for value in row] for row in rows])
            connection.executemany(
                "DELETE FROM calls WHERE number = ?", [(number,) for number in instead_of]
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @staticmethod
    def numbers(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
        """The number and the identity of each call.

        The table has no index of identities: these are random, so that each call would write
        another page of it.
        """
        return connection.execute("SELECT number, call FROM calls ORDER BY number")

    @staticmethod
    def row(connection: sqlite3.Connection, number: int) -> CallRow:
        """The call with this number."""
        found = connection.execute("SELECT * FROM calls WHERE number = ?", (number,)).fetchone()
        return CallRow._make(found)

    @staticmethod
    def block(connection: sqlite3.Connection, number: int) -> dict[int, CallRow]:
        """The calls around one, by their numbers; those with little value alone."""
        first = number - number % BLOCK
        found = connection.execute(
            "SELECT * FROM calls WHERE number BETWEEN ? AND ? AND ifnull(length(value), 0) < 4096",
            (first, first + BLOCK - 1),
        )
        return {row[0]: CallRow._make(row) for row in found}

    @staticmethod
    def rows(connection: sqlite3.Connection) -> Iterator[CallRow]:
        """All calls, in the order in which they were told.

        They are read by and by, so that the one who writes never waits long.
        """
        number = 0
        select = "SELECT * FROM calls WHERE number > ? ORDER BY number LIMIT 1000"
        while found := connection.execute(select, (number,)).fetchall():
            yield from map(CallRow._make, found)
            number = found[-1][0]

    @staticmethod
    def functions(connection: sqlite3.Connection) -> Sequence[FunctionRow]:
        """All versions of functions, the oldest first."""
        found = connection.execute("SELECT task, version, python, since FROM functions ORDER BY id")
        return [FunctionRow._make(row) for row in found]

    @staticmethod
    def add_function(connection: sqlite3.Connection, task: str, version: str) -> None:
        """Note that a task has had this version of its function."""
        connection.execute(
            "INSERT OR IGNORE INTO functions (task, version, python, since) VALUES (?, ?, ?, ?)",
            (task, version, PYTHON, time.time()),
        )

    # -- values ----------------------------------------------------------------------------

    def write_value(self, number: int, call: bytes, value: bytes) -> None:
        """Write a large value into a file of its own: all of it, or nothing."""
        self.values.mkdir(mode=0o700, exist_ok=True)
        check_owner(self.values)
        file = self._value_file(number, call)
        part = file.with_suffix(".part")
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as opened:
            opened.write(value)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
        sync_folder(self.values)

    def value_of(self, row: CallRow) -> bytes:
        """The pickle of what a call returned or raised."""
        if not row.is_in_file:
            return row.value or b""
        check_owner(self.values)
        file = self._value_file(row.number, row.call)
        check_owner(file)
        return file.read_bytes()

    def remove_value(self, number: int, call: bytes) -> None:
        """Remove the file of a value, if it has one."""
        self._value_file(number, call).unlink(missing_ok=True)

    def remove_unknown_values(self, connection: sqlite3.Connection) -> None:
        """Remove what a driver that was killed, or a full disk, has left: files without a row.

        For the one who writes, before it does.
        """
        if not self.values.exists():
            return
        check_owner(self.values)
        for file in self.values.iterdir():
            if (match := _VALUE.fullmatch(file.name)) is None:
                continue
            select = "SELECT is_in_file FROM calls WHERE number = ? AND call = ?"
            row = connection.execute(select, (int(match[2]), bytes.fromhex(match[1]))).fetchone()
            if row != (1,) or match[3] == "part":
                file.unlink()

    def _value_file(self, number: int, call: bytes) -> Path:
        return self.values / f"{call.hex()}-{number}.pickle"


def _stored(value: Any) -> Any:
    """A value as SQLite can store it: no lone surrogates, no integers of more than 64 bits."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return max(-(2**63), min(value, 2**63 - 1)) if type(value) is int else value


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some file systems cannot, and need not
    finally:
        os.close(fd)
