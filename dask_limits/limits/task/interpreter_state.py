"""What the interpreter shows of this process, and its restoration where that is sure.

The state of libraries is theirs. What is looked at is what the interpreter itself is set to, and
what of its own libraries is in fact a setting of the process: the current event loop, the warnings
that have been shown, the generators of random numbers, which a new process seeds.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]
import builtins
import contextvars
import decimal
import faulthandler
import gc
import logging
import signal
import socket
import sys
import threading
import tracemalloc
import warnings
from typing import Any, Final

from dask_limits.limits.task.random_state import RandomStates

_CSV_FIELD: Final = 131_072
"""Bytes that a field may have where no module has set it."""
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


def settings_of_libraries() -> tuple[object, ...]:
    """What some libraries change for good, but for import hooks, path, and filters of warnings."""
    system = dict.fromkeys(("path", "path_hooks", "meta_path"))
    return (
        {**vars(sys), **system},
        vars(builtins).copy(),
        _other_hooks(),
        _locale.setlocale(_locale.LC_ALL),
        _decimal_settings(),
        dict(contextvars.copy_context()),
    )


def settings_of_standard_library() -> tuple[object, ...]:
    """What the standard library keeps for all modules, beyond its functions and classes."""
    # Modules may be there and not have run yet.
    field_size_limit = getattr(sys.modules.get("csv"), "field_size_limit", lambda: _CSV_FIELD)
    context = getattr(sys.modules.get("multiprocessing.context"), "_default_context", None)
    chosen = context and context._actual_context
    root = logging.getLogger()
    return (
        (root.handlers.copy(), root.filters.copy(), root.level, logging.root.manager.disable),
        chosen and chosen.get_start_method(),
        faulthandler.is_enabled(),
        field_size_limit(),
    )


def _decimal_settings() -> tuple[object, ...]:
    *settings, _flags, traps = decimal.getcontext().__reduce__()[1]
    return *settings, traps


class Hooks:
    """What some libraries change when they are imported, as it was when this was made."""

    def __init__(self) -> None:
        self._sys = vars(sys).copy()
        self._builtins = vars(builtins).copy()
        self._others = _import_hooks(), _other_hooks()

    def are_same(self) -> bool:
        """Whether nothing has changed. 5 us."""
        return (
            vars(sys) == self._sys
            and vars(builtins) == self._builtins
            and (_import_hooks(), _other_hooks()) == self._others
        )


def _import_hooks() -> tuple[object, ...]:
    return sys.meta_path.copy(), sys.path_hooks.copy()


def _other_hooks() -> tuple[object, ...]:
    return (
        sys.argv.copy(),
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
        threading.excepthook,
        threading.stack_size(),
        threading.main_thread().name,
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

    So are the arguments of the program, the switch interval, the digits that an integer may have,
    and the thresholds of the garbage collector: libraries set these when they are imported, if at
    all. What modules have set that a call has imported stays: they would not set it again.
    """

    def __init__(self, random: RandomStates) -> None:
        self._random = random
        self._remember()

    def _remember(self) -> None:
        self._modules = len(sys.modules)
        self._filters = list(warnings.filters)
        self._locale = _locale.setlocale(_locale.LC_ALL)
        self._argv, self._arguments = sys.argv, sys.argv.copy()
        self._plain = _plain_settings()
        self._decimals = decimal.getcontext().copy()
        self._decimal_settings = _decimal_settings()

    def restore(self) -> bool:
        """Restore it. False if some of it stays."""
        is_sure = self._random.restore()
        signal.set_wakeup_fd(-1)
        policy = _event_loop_policy()
        if hasattr(policy, "_local"):
            policy._local = type(policy._local)()  # as before the first event loop of this thread
        has_imported = len(sys.modules) != self._modules
        if has_imported and not self._are_same():
            is_sure = False
            self._remember()
        elif not self._common_are_same():
            warnings.filters[:] = self._filters  # type: ignore[index]
            _locale.setlocale(_locale.LC_ALL, self._locale)
            sys.argv, self._argv[:] = self._argv, self._arguments
            _restore_plain(*self._plain)
        # Calls see this one, also where each has its own context variables.
        decimal.setcontext(self._decimals.copy())
        self._modules = len(sys.modules)
        # A new process shows again what has been shown once.
        warnings._filters_mutated()  # type: ignore[attr-defined]
        return is_sure

    def _common_are_same(self) -> bool:
        return (
            warnings.filters == self._filters
            and _locale.setlocale(_locale.LC_ALL) == self._locale
            and sys.argv == self._arguments
            and _plain_settings() == self._plain
        )

    def _are_same(self) -> bool:
        return self._common_are_same() and _decimal_settings() == self._decimal_settings


def _plain_settings() -> tuple[float, int, tuple[int, ...]]:
    return sys.getswitchinterval(), sys.get_int_max_str_digits(), gc.get_threshold()


def _restore_plain(switch_interval: float, digits: int, thresholds: tuple[int, ...]) -> None:
    sys.setswitchinterval(switch_interval + 5e-7)  # which cuts off what is below a microsecond
    sys.set_int_max_str_digits(digits)
    gc.set_threshold(*thresholds)
