"""What the interpreter shows of this process, and its restoration where that is sure.

The state of libraries is theirs. What is looked at is what the interpreter itself is set to, and
what of its own libraries is in fact a setting of the process: the current event loop, the warnings
that have been shown, the generators of random numbers, which a new process seeds.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]
import builtins
import gc
import signal
import socket
import sys
import threading
import tracemalloc
import warnings
from typing import Any, Final

from dask_limits.limits.task.random_state import RandomStates

_SIGNALS: Final = sorted(map(int, signal.valid_signals()))


def settings() -> tuple[object, ...]:
    """What no library changes for good; to be compared with another reading."""
    return (
        # signal.getsignal makes an enum of each handler, at eight times the time
        list(map(_signal.getsignal, _SIGNALS)),
        sys.getrecursionlimit(),
        socket.getdefaulttimeout(),
        sys.gettrace(),
        sys.getprofile(),
        gc.isenabled(),
        *map(id, (sys.stdin, sys.stdout, sys.stderr)),
    )


class Hooks:
    """What some libraries change when they are imported, as it was when this was made."""

    def __init__(self) -> None:
        self._sys = vars(sys).copy()
        self._builtins = vars(builtins).copy()
        self._others = _other_hooks()

    def are_same(self) -> bool:
        """Whether nothing has changed. 5 us."""
        return (
            vars(sys) == self._sys
            and vars(builtins) == self._builtins
            and _other_hooks() == self._others
        )


def _other_hooks() -> tuple[object, ...]:
    return (
        sys.argv.copy(),
        sys.meta_path.copy(),
        sys.path_hooks.copy(),
        sys.getswitchinterval(),
        sys.getdlopenflags(),
        sys.get_int_max_str_digits(),
        sys.get_asyncgen_hooks(),
        sys.get_coroutine_origin_tracking_depth(),
        gc.get_threshold(),
        gc.get_debug(),
        gc.callbacks.copy(),
        threading.gettrace(),
        threading.getprofile(),
        tracemalloc.is_tracing(),
        _own_event_loop_policy(),
        *map(_text_settings, (sys.stdin, sys.stdout, sys.stderr)),
    )


def _text_settings(stream: Any) -> tuple[object, ...] | None:
    return stream and (stream.encoding, stream.errors, stream.newlines, stream.line_buffering)


def _event_loop_policy() -> Any:
    """The policy in use; None until one is needed, or where asyncio is not imported."""
    module = sys.modules.get("asyncio.events")
    return getattr(module, "_event_loop_policy", None)


def _own_event_loop_policy() -> type | None:
    """The class of the policy in use; None if it is the one of asyncio itself."""
    kind = type(_event_loop_policy())
    module = sys.modules.get("asyncio.unix_events")
    own = kind in (type(None), getattr(module, "_UnixDefaultEventLoopPolicy", None))
    return None if own else kind


class Restored:
    """What is restored after each call: warnings, locale, event loop, generators of random numbers.

    What modules have set that a call has imported stays: they would not set it again.
    """

    def __init__(self) -> None:
        self._random = RandomStates()
        decimal = sys.modules.get("decimal")
        self._decimals = decimal.getcontext().copy() if decimal is not None else None
        self._remember()

    def _remember(self) -> None:
        self._modules = len(sys.modules)
        self._filters = list(warnings.filters)
        self._locale = _locale.setlocale(_locale.LC_ALL)

    def are_same(self) -> bool:
        """Whether nothing has changed."""
        return (
            warnings.filters == self._filters and _locale.setlocale(_locale.LC_ALL) == self._locale
        )

    def restore(self) -> bool:
        """Restore it. False if some of it stays."""
        self._random.restore()
        signal.set_wakeup_fd(-1)
        if self._decimals is not None:
            # Calls see this one, also where each has its own context variables.
            sys.modules["decimal"].setcontext(self._decimals.copy())
        policy = _event_loop_policy()
        if hasattr(policy, "_local"):
            policy._local = type(policy._local)()  # as before the first event loop of this thread
        stays = False
        if not self.are_same():
            if stays := len(sys.modules) != self._modules:
                self._remember()
            else:
                warnings.filters[:] = self._filters  # type: ignore[index]
                _locale.setlocale(_locale.LC_ALL, self._locale)
        self._modules = len(sys.modules)
        # A new process shows again what has been shown once.
        warnings._filters_mutated()  # type: ignore[attr-defined]
        return not stays
