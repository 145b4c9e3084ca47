"""An executor whose calls a journal remembers."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from os import PathLike
from typing import Any, Final, TypeVar

from dask_limits.exceptions import JournalError
from dask_limits.executors import traced
from dask_limits.future import Call, Future
from dask_limits.journal.journal import Journal
from dask_limits.journal.run_journal import RunJournal
from dask_limits.limits import name_of

R = TypeVar("R")

logger = logging.getLogger("dask_limits.journal")

_SHUT_DOWN: Final = "This executor takes no calls after shutdown(): make a new one"


class JournalledFuture(Future[R]):
    """The future that users hold of a call. It is done when the end of the call is on the disk.

    Once the call has ended it cannot be cancelled any more, as it may be on the disk already.
    """

    def __init__(self, inner: Future[R]) -> None:
        super().__init__()
        self._inner: Future[R] | None = inner  # until it is told
        self._number, self.submitted_at = inner._number, inner.submitted_at
        inner.attempt_of = self
        self.started_at = inner.started_at

    def running(self) -> bool:
        """Whether the call has been started and is not done."""
        inner = self._inner
        return inner is not None and (inner.running() or inner.done()) and not self.done()

    def cancel(self) -> bool:
        """Cancel the call. If it is running, end it.

        Returns:
            True if it is cancelled, False if it has ended before.
        """
        inner = self._inner
        return (inner is None or inner.cancel()) and super().cancel()

    def tell(self) -> None:
        """End as the call has."""
        if (inner := self._inner) is not None:
            self._end_as(inner)
            self._inner = None

    def give_up(self, error: BaseException) -> None:
        """End with this error, whatever the call does, and end the call."""
        inner, self._inner = self._inner, None
        self._finish(exception=error)
        if inner is not None:
            inner.cancel()


class JournalledExecutor:
    """Submits calls to an executor, unless a journal has their ends, and writes their ends to it.

    A future is done when its call is on the disk. If nothing can be written any more, the calls
    that are not told end with a JournalError.

    The thread of the journal calls the done-callbacks.

    Args:
        journal: The file, and how to use it.
        make: Makes the executor, once this program has the file.

    Attributes:
        executor: The executor.

    Raises:
        JournalError: if the file cannot be used.
    """

    def __init__(
        self, journal: str | PathLike[str] | Journal, make: Callable[[], Executor]
    ) -> None:
        remembered = Journal.of(journal)
        assert remembered is not None
        self._calls: dict[Future[Any], Call] = {}  # of the executor, that are not told
        self._path = remembered.path
        self._pid = os.getpid()
        self._lock = threading.RLock()  # of what finds calls in the journal
        self._ending = threading.RLock()
        self._refusal: Callable[[], Exception] | None = None  # why nothing is told any more
        self._journal = RunJournal(remembered, self._calls, self._tell)
        try:
            self.executor = make()
        except BaseException:
            self._journal.close()
            raise

    def submit(
        self,
        to: Callable[..., Future[Any]],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        """Submit a call, if it is to run. `to` is what submits it to the executor.

        Raises:
            JournalError: if it cannot be told from others, its function has changed, what it has
                returned cannot be loaded, or nothing can be written any more.
            RuntimeError: after `shutdown()`.
        """
        self._check_process()
        call = fn, args, kwargs
        with self._lock:
            self._check_open()
            known = self._journal.submitted(name_of(fn), call)
        if known.past is not None:
            return known.past
        inner: Future[Any] = traced.submit(to, fn, args, kwargs)
        future = JournalledFuture(inner)
        self._calls[inner] = call
        self._journal.follow(inner, known)
        if self._refusal is not None:  # since then, so this call may not have been seen
            self._give_up()
        return future

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise JournalError(
                f"This process is a fork of the one that writes the journal {self._path}: only"
                " that one can. Make an executor without a journal here."
            )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down. When its calls are told, close the journal."""
        if os.getpid() != self._pid:
            self.executor.shutdown(wait, cancel_futures=cancel_futures)
            return
        if cancel_futures:
            for inner in list(self._calls):
                _outer(inner).cancel()
        end = partial(self._end, cancel_futures)
        if wait and not self._journal.is_this_thread:
            end()
        else:
            threading.Thread(target=end, name="dask-limits-shutdown").start()

    def _end(self, cancel_futures: bool) -> None:
        """Shut down. If Ctrl-C interrupts this, it is called again when the program ends."""
        with self._ending:
            try:
                self.executor.shutdown(cancel_futures=cancel_futures)
            except Exception:  # of an item of map()
                self._close()
                raise
            self._close()

    def _close(self) -> None:
        self._journal.flush()
        with self._lock:
            self._refusal = self._refusal or partial(RuntimeError, _SHUT_DOWN)
        self._journal.close()
        self._give_up()  # another thread may have submitted a call since

    def _tell(self, inner: Future[Any] | None) -> None:
        """Tell a call that is on the disk; None: there will be none any more."""
        if inner is not None:
            if self._calls.pop(inner, None) is not None:
                with contextlib.suppress(BaseException):  # of a done-callback
                    _outer(inner).tell()
            return
        error = self._journal.error
        logger.error("%s %d calls that were not told end with this error.", error, len(self._calls))
        self._refusal = partial(_like, error)
        self._give_up()

    def _give_up(self) -> None:
        """End all calls that are not told."""
        assert self._refusal is not None
        for inner in list(self._calls):
            if self._calls.pop(inner, None) is not None:
                with contextlib.suppress(BaseException):  # of a done-callback
                    _outer(inner).give_up(self._refusal())


def _outer(inner: Future[Any]) -> JournalledFuture[Any]:
    """The future that users hold."""
    assert isinstance(inner.attempt_of, JournalledFuture)
    return inner.attempt_of


def _like(error: BaseException | None) -> JournalError:
    """An error for one call: raising it adds to its traceback."""
    another = JournalError(str(error))
    another.__cause__ = error
    return another
