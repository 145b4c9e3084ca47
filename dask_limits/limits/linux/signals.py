"""Signals to our own processes.

A call may send any signal to any process of its user. Those that keep its limits and those of all
other calls must not end by one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import os
import signal
from typing import Any, Final

_NOT_IGNORED: Final = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
"""Those that cannot be ignored; and the one that tells a parent of the end of a child."""
_CANCEL_AND_SETXID: Final = (32, 33)
"""Two signals that C libraries keep for themselves, and hide from programs (nptl(7)). Until a
library has used them, they end a process as all others."""
_RT_SIGACTION: Final = {
    "x86_64": 13,
    "aarch64": 134,
    "riscv64": 134,
    "loongarch64": 134,
    "ppc64le": 173,
    "s390x": 174,
}
"""The number of rt_sigaction(2), which is the only way to those two."""
_KERNEL_SIGSET_SIZE: Final = 8
_WORDS_OF_SIGACTION: Final = 4  # a handler, flags, a mask; on some machines a restorer too

_libc: Final = ctypes.CDLL(None, use_errno=True)
_handlers: dict[int, Any] = {}  # of this process when it began to ignore signals


def ignore_all() -> None:
    """Ignore every signal that can be ignored, except for SIGCHLD; children inherit this."""
    for number in signal.valid_signals() - _NOT_IGNORED:
        # signal.signal makes enums, at five times the time
        _handlers[number] = _signal.signal(number, _signal.SIG_IGN)
    _handle_hidden(signal.SIG_IGN)


def stop_ignoring() -> None:
    """Handle signals again as before `ignore_all()`, which the parent of this process has called.

    What the owner ignores stays ignored, as it would in any program that it starts.
    """
    _handle_hidden(signal.SIG_DFL)
    for number, handler in _handlers.items():
        if handler is not None:
            _signal.signal(number, handler)


def block_all() -> set[int]:
    """Block every signal that can be blocked, except for SIGCHLD, and ignore the hidden ones.

    For a process whose children handle signals as it would. Returns the mask for `unblock_all`.
    """
    _handle_hidden(signal.SIG_IGN)
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _NOT_IGNORED)
    return set(before)


def unblock_all(mask: set[int]) -> None:
    """Undo `block_all()`, in this process or its child."""
    _signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _handle_hidden(signal.SIG_DFL)


def _handle_hidden(handler: signal.Handlers) -> None:
    syscall = _RT_SIGACTION.get(os.uname().machine)
    if syscall is None:
        return
    action = (ctypes.c_long * _WORDS_OF_SIGACTION)(handler)
    for number in _CANCEL_AND_SETXID:
        _libc.syscall(syscall, number, action, None, _KERNEL_SIGSET_SIZE)
