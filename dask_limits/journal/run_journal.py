"""The journal of a run, or an executor: what is found there, and the thread that writes to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from dask_limits.exceptions import JournalError
from dask_limits.future import Call, Future
from dask_limits.journal.function_versions import FunctionVersions
from dask_limits.journal.identity import NoIdentityError, function_of, identity_of
from dask_limits.journal.journal import Journal
from dask_limits.journal.lock import Lock
from dask_limits.journal.rows import future_of, need_not_run, row_of
from dask_limits.journal.store import BLOCK, CallRow, Store
from dask_limits.limits.interrupted import is_by_signal
from dask_limits.limits.tracebacks import say

logger = logging.getLogger("dask_limits.journal")

_LARGEST_GROUP: Final = 1000
"""Calls that are written together, at most: some 10 ms of work."""

_BLOCKS: Final = 64
"""Blocks of rows that are kept: several MiB, and as many calls as are submitted at a time."""
_MANY: Final = 32
_GATHER_S: Final = 0.005
"""How long to wait for further calls that end, while so many are submitted: each group costs as
much as ten calls. With fewer calls, those that submit others when they are told would wait."""


class Known(NamedTuple):
    """A call that is submitted, as the journal knows it.

    Attributes:
        call: Its identity.
        task: The name of its task.
        number: Its place in the order in which calls were told, if it has ended before.
        past: Its future then, unless it runs again.
    """

    call: bytes
    task: str
    number: int | None = None
    past: Future[Any] | None = None


class RunJournal:
    """Finds calls that have ended in earlier runs, and writes those that end in this one.

    The calls that end are written in groups by a thread, and each is told when it is on the disk:
    what ends while a group is written makes up the next one.

    Args:
        journal: The file, and how to use it.
        queue: The calls that are not told yet.
        tell: Called with each future whose call is on the disk, in the thread that writes; with
            None when `error` is set.

    Attributes:
        error: Why nothing can be written any more.

    Raises:
        JournalError: if the file cannot be used.
    """

    def __init__(
        self,
        journal: Journal,
        queue: Mapping[Future[Any], Call],
        tell: Callable[[Future[Any] | None], object],
    ) -> None:
        self.error: JournalError | None = None
        self._rerun = journal.rerun
        self._queue = queue
        self._tell = tell
        self._followed: dict[Future[Any], Known] = {}
        self._seen: set[int] = set()
        self._open_keys: set[bytes] = set()
        self._n_past = 0
        self._is_closed = False
        self._repeats: dict[int, int] = {}
        self._ended: SimpleQueue[tuple[Future[Any], Known] | threading.Event | None] = SimpleQueue()
        # Another name of the same file would have another lock, and a callback may change folders.
        path = Path(journal.path).expanduser().resolve()
        try:
            self._lock = Lock(path)
        except OSError as error:
            raise JournalError(f"The journal {path} cannot be made: {error.strerror}") from error
        try:
            self._store = Store(path, writes=True)
            with self._store.explained():
                self._connection = self._store.connect()
                self._store.remove_unknown_values(self._connection)
                self._versions = FunctionVersions(self._store, self._connection, journal.changed)
                calls = self._store.numbers(self._connection)
                self._numbers = {_short(call): number for number, call in calls}
        except BaseException:
            self._lock.release()
            raise
        self._block = lru_cache(_BLOCKS)(
            lambda block: self._store.block(self._connection, block * BLOCK)
        )
        self._n_calls = len(self._numbers)
        self._next_number = max(self._numbers.values(), default=0) + 1
        logger.info(
            "Journal %s: %d calls have ended in earlier runs%s",
            path,
            len(self._numbers),
            "; it is on a shared file system, so it has no write-ahead log"
            if self._store.is_shared
            else "",
        )
        self._writer = threading.Thread(target=self._write, name="dask-limits-journal", daemon=True)
        self._writer.start()

    # -- what has ended in earlier runs ----------------------------------------------------

    def submitted(
        self,
        task: str,
        called: Call,
        key: str | None = None,
    ) -> Known:
        """A call that is submitted now, with its past if it need not run again.

        Raises:
            JournalError: if it cannot be told from others, its function has changed, or what it
                has returned cannot be loaded.
        """
        fn, args, kwargs = called
        function = function_of(fn)
        version = self._versions.checked(task, function.version)
        try:
            call = identity_of(task, version, key, args, kwargs, function)
        except NoIdentityError as error:
            raise JournalError(
                f"The arguments of {task}() cannot be told from others in a later run: {error}."
                " Use others, or give the task a key, which only a Scheduler's has:"
                f" scheduler.task({task}, key=lambda ...: ...)"
            ) from error
        if key is None:
            call = self._occurrence(call)
        elif call in self._open_keys:
            raise JournalError(
                f"A call of {task}() with the key {key!r} runs already: calls with one key are one"
                " call. Give others another key, or submit it again when it has ended."
            )
        if (number := self._numbers.get(_short(call))) is not None:
            row = self._row_of(number)
            if row.call == call and need_not_run(row, self._rerun):
                self._n_past += 1
                return Known(call, task, number, self._past(row))
        if key is not None:
            self._open_keys.add(call)
        return Known(call, task, number)

    def _row_of(self, number: int) -> CallRow:
        with self._store.explained():
            row = self._block(number // BLOCK).get(number)
            return self._store.row(self._connection, number) if row is None else row

    def _occurrence(self, call: bytes) -> bytes:
        """The identity of a call, unless there was the same in this run: then another one."""
        short = _short(call)
        if short not in self._seen:
            self._seen.add(short)
            return call
        n = self._repeats[short] = self._repeats.get(short, 1) + 1
        return blake2b(call + n.to_bytes(8), digest_size=16).digest()

    def _past(self, row: CallRow) -> Future[Any]:
        try:
            return future_of(row, self._store)
        except BaseException as error:
            if is_by_signal(error):
                raise
            raise JournalError(
                f"What {row.task}({row.arguments}) has returned or raised cannot be loaded from the"
                f' journal {self._store.path}: {say(error)}. Journal(path, rerun="all") runs all'
                " calls again."
            ) from error

    # -- what ends in this run -------------------------------------------------------------

    def follow(self, future: Future[Any], known: Known) -> None:
        """Write a call when it has ended, and tell it then."""
        self._followed[future] = known
        future.when_settled(self._settled)

    def _settled(self, future: Future[Any]) -> None:
        """Have a call written. This is called in any thread; more calls do nothing."""
        if (known := self._followed.pop(future, None)) is not None:
            self._ended.put((future, known))

    @property
    def is_this_thread(self) -> bool:
        """Whether this is the thread that writes, which nothing in it can wait for."""
        return threading.current_thread() is self._writer

    def flush(self) -> bool:
        """Write all calls that have ended by now. Return whether they are on the disk."""
        for future in list(self._followed):
            if future.done():
                self._settled(future)
        written = threading.Event()
        self._ended.put(written)
        while self._writer.is_alive() and not written.wait(0.5):
            pass
        return self.error is None

    def close(self) -> None:
        """Write what has ended, and give the file free. Further calls do nothing."""
        if self._is_closed:
            return
        self._ended.put(None)
        self._writer.join()
        if self._n_calls:
            logger.info(
                "Journal %s: %d of %d calls of earlier runs have come back",
                self._store.path,
                self._n_past,
                self._n_calls,
            )
        self._connection.close()
        if self._lock.is_there:  # else that of another driver would be removed
            self._store.close()
        self._lock.release()
        self._is_closed = True

    def _write(self) -> None:
        """Write groups of calls, until there is none any more."""
        try:
            with self._store.explained(), closing(self._store.connect()) as connection:
                while self._write_group(connection):
                    pass
        except BaseException as error:
            why = error if isinstance(error, JournalError) else say(error)
            self.error = JournalError(f"{why}. All that was told of before is in the journal.")
            self.error.__cause__ = error
            self._tell(None)

    def _write_group(self, connection: Any) -> bool:
        """Wait for calls that have ended, write them, and tell them. Return whether to go on."""
        group, waiting, goes_on = self._next_group()
        calls = [each for each in group if not each[0].cancelled()]
        if calls:
            rows = [self._row(future, known) for future, known in calls]
            again = [known.number for _, known in calls if known.number is not None]
            self._lock.check_is_there()
            self._store.add(connection, rows, again)
            self._store.check_is_there()
            for _, known in calls:
                if known.number is not None:
                    self._store.remove_value(known.number, known.call)
            for number, call, *_ in rows:
                self._numbers[_short(call)] = number
                self._open_keys.discard(call)
        for future, _ in group:
            self._tell(future)
        for written in waiting:
            written.set()
        return goes_on

    def _row(self, future: Future[Any], known: Known) -> tuple[Any, ...]:
        number, self._next_number = self._next_number, self._next_number + 1
        call = self._queue[future]
        return row_of(number, known.call, known.task, future, call, self._store)

    def _next_group(
        self,
    ) -> tuple[list[tuple[Future[Any], Known]], list[threading.Event], bool]:
        """Calls that have ended, who waits until they are written, and whether more will come."""
        group: list[tuple[Future[Any], Known]] = []
        waiting: list[threading.Event] = []
        one = self._ended.get()
        if len(self._followed) >= _MANY:
            time.sleep(_GATHER_S)
        try:
            while one is not None:
                if isinstance(one, threading.Event):
                    waiting.append(one)
                else:
                    group.append(one)
                if len(group) == _LARGEST_GROUP:
                    break
                one = self._ended.get_nowait()
        except Empty:
            pass
        return group, waiting, one is not None


def _short(call: bytes) -> int:
    """An identity as a number that takes little memory."""
    return int.from_bytes(call[:8])
