"""Tells an exception that a signal has raised from one that the interrupted code has raised."""

from __future__ import annotations

import dis
import functools
import signal
import threading
import traceback
from types import CodeType
from typing import Final

_RAISE: Final = {dis.opmap["RAISE_VARARGS"], dis.opmap["RERAISE"]}


def is_by_signal(error: BaseException) -> bool:
    """Whether a signal's handler has raised this exception, such as that of Ctrl-C.

    A handler runs in the main thread, between two instructions of any code. One in Python is a
    frame of the traceback; that of Ctrl-C is in C, and what it has interrupted is no `raise`.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    handlers = set(map(_code_of, map(signal.getsignal, signal.valid_signals())))
    if any(frame.f_code in handlers for frame, _ in frames):
        return True
    if not isinstance(error, KeyboardInterrupt) or (last := error.__traceback__) is None:
        return False
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code.co_code
    return code[last.tb_lasti] not in _RAISE


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = getattr(handler, "__call__", None)  # noqa: B004  # of an object of any class
    return getattr(handler, "__code__", None)
