from __future__ import annotations

import _thread
import sys
import threading
import types

from dask_limits.limits.linux import uninterrupted
from dask_limits.limits.owner.connection import Connection
from dask_limits.limits.owner.steps import Steps


class Start:
    """The start of a guardian: in a thread of its own, where no signal interrupts it.

    Any number of threads can wait for it, and so can a signal's handler that has interrupted a
    thread that waits: there is no lock. The finalizer of an object may run in the very thread that
    starts it: what waits there starts another one, and the slower one is closed. While the
    interpreter ends, when no other thread goes on, what waits starts it itself.
    """

    def __init__(self, max_calls: int | None) -> None:
        self._max_calls = max_calls
        self._to_do = [self._run]
        self._error: BaseException | None = None
        self._raised_at: types.TracebackType | None = None
        self._thread = 0  # that starts it
        self.connection: Connection | None = None

    def wait(self) -> Steps[Connection]:
        """Start it, unless someone has, and wait until it has started.

        Raises:
            OSError: if there is no room for another process.
        """
        while self.connection is None:
            if self._error is not None:
                raise self._error.with_traceback(self._raised_at)  # not that of earlier waits too
            if self._to_do:
                self._begin()
            elif self._thread == threading.get_ident() or sys.is_finalizing():
                self._run()
            yield ()
        return self.connection

    def _begin(self) -> None:
        start_thread = (_thread.start_new_thread, self._run, ())
        try:
            uninterrupted.together((self._to_do.pop,), start_thread)
        except IndexError:
            pass  # another thread has
        except RuntimeError:  # there is no room for a thread, or the interpreter is ending
            self._run()

    def _run(self) -> None:
        self._thread = threading.get_ident()
        try:
            connection = Connection(self._max_calls)
            if self.connection is None:
                self.connection = connection
            else:
                connection.close()
        except BaseException as error:
            self._raised_at, self._error = error.__traceback__, error
        finally:
            self._thread = 0
