"""Executors that are still open when the program ends."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # what it does at exit is to come after this
import os
import sys
import threading
import weakref
from typing import Final, Protocol


class ShutsDown(Protocol):
    """An executor, or what is shut down as one."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor`."""


_open: Final[weakref.WeakSet[ShutsDown]] = weakref.WeakSet()
"""An executor is to live as long as it has calls."""
_is_ending = False  # the program


def shut_down_at_exit(executor: ShutsDown) -> None:
    """Shut down an executor when the program ends, if nobody has until then.

    As in the standard library, the program waits for its calls. An unhandled KeyboardInterrupt
    ends them, and so does Ctrl-C while the program waits.
    """
    _open.add(executor)


def check_program() -> None:
    """Refuse calls once the program waits for those that it has, as the standard library does.

    Raises:
        RuntimeError: if the program ends.
    """
    if _is_ending:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")


def was_shut_down(executor: ShutsDown) -> None:
    """Note that there is nothing left to do."""
    _open.discard(executor)


def _shut_down_all() -> None:
    global _is_ending
    _is_ending = True
    try:
        _shut_down(cancel=_is_interrupted())
    except KeyboardInterrupt:
        _shut_down(cancel=True)


def _shut_down(*, cancel: bool) -> None:
    for executor in list(_open):
        executor.shutdown(cancel_futures=cancel)
        was_shut_down(executor)


def _is_interrupted() -> bool:
    """Whether an unhandled KeyboardInterrupt ends the program.

    In an interactive session the same is known of one that has interrupted a line long ago.
    """
    last = getattr(sys, "last_value", None)  # https://docs.python.org/3/library/sys.html
    return isinstance(last, KeyboardInterrupt) and not hasattr(sys, "ps1")


# Undocumented, but the standard library has no other way either: functions of `atexit` are called
# after the threads that run calls have ended.
threading._register_atexit(_shut_down_all)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_open.clear)
