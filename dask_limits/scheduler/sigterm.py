from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGTERM
from types import FrameType
from typing import Final, Never

_EXIT_STATUS: Final = 128 + SIGTERM  # as shells report a program that SIGTERM ended


_raised: SystemExit | None = None
"""What it has raised last in the present run."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Have SIGTERM raise SystemExit in this thread, instead of ending the program as it is.

    A batch system sends it before it kills a job. If a callback swallows the exception, such as by
    `except BaseException`, `raise_again` raises it after that, and so does a further SIGTERM at
    once. A handler of the user's stays, and so does all in other threads than the main one, which
    cannot set handlers.
    """
    global _raised
    # It is set already in a run inside of another one, or if Ctrl-C has interrupted the last line.
    if not _in_main_thread() or signal.getsignal(SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(SIGTERM, _on_sigterm)
        yield
        raise_again()
    finally:
        _raised = None
        if signal.getsignal(SIGTERM) is _on_sigterm:  # a callback may have set another one
            signal.signal(SIGTERM, signal.SIG_DFL)


def raise_again() -> None:
    """Raise SystemExit if SIGTERM has come, and what it has raised was swallowed."""
    if _raised is not None and _in_main_thread():
        _raise()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if not _is_handled():  # several may come, which would interrupt the end of the run
        _raise()


def _raise() -> Never:
    global _raised
    _raised = SystemExit(_EXIT_STATUS)
    raise _raised


def _is_handled() -> bool:
    """Whether what it has raised is on its way out, in an `except` or a `finally`."""
    error = sys.exception()
    while error is not None and error is not _raised:
        error = error.__context__
    return error is not None


def _restore_in_child() -> None:
    if signal.getsignal(SIGTERM) is _on_sigterm:  # the run does not go on there
        signal.signal(SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_restore_in_child)
