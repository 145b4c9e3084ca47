"""All that kernel and interpreter show of a process, apart from what changes by itself.

What is left out is listed here, not what is looked at: so what nobody has thought of is seen too.
"""

# ruff: noqa: PTH109, PTH115, PTH116, PTH208

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import decimal
import gc
import locale
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROC = Path("/proc/self")
_CHANGING_FILES = {
    *("arch_status", "auxv", "clear_refs", "io", "ksm_merging_pages", "ksm_stat", "latency"),
    *("maps", "mem", "mountinfo", "mounts", "mountstats", "numa_maps", "oom_score", "pagemap"),
    *("sched", "schedstat", "smaps", "smaps_rollup", "stack", "stat", "statm", "status"),
    *("syscall", "wchan"),
}
_CHANGING_LINES = ("State", "Ngid", "FDSize", "SigQ", "Vm", "Rss", "voluntary", "nonvoluntary")
_LOCKED_LINES = ("VmLck", "VmPin")
_STAT_FIELDS = (5, 6, 7, 8, 18, 19, 38, 40, 41)
_CHANGING_ANSWERS = {
    *("getallocatedblocks", "getunicodeinternedsize", "gettotalrefcount"),
    *("get_count", "get_objects", "get_stats", "get_referrers", "get_referents"),
    "get_freeze_count",
}
_LIBC_SIGNALS = 0b11 << 32 - 1
"""The C library has a handler for signals 32 and 33 once a thread was started."""
_PRCTL_VALUES = (3, 5, 7, 9, 11, 13, 16, 19, 27, 30, 34, 39, 42, 46, 56, 58, 66, 68)
_PRCTL_STORED = (2, 25, 37)
_PIDS = ("Pid", "Tgid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid")
_SYSCALLS = {"x86_64": (315, 252, 239, 250), "aarch64": (275, 31, 236, 219)}
_OF_LIBRARIES = (
    *("open_files", "interpreter", "signals action"),
    *("status SigCgt", "status Threads", "status VmLck", "status VmPin"),
)
"""What libraries may keep in a process that is kept for them, ..."""
_PLAIN_SETTINGS = (
    *("interpreter argv", "interpreter gc.get_threshold"),
    *("interpreter sys.getswitchinterval", "interpreter sys.get_int_max_str_digits"),
)
"""... but for these."""
_libc = ctypes.CDLL(None, use_errno=True)


def view() -> dict[str, Any]:
    """What this process shows, to be compared with what it shows later."""
    shown: dict[str, Any] = {}
    for part in (
        *(_files, _status, _kernel, _open_files, _held),
        *(_signals, _environment, _interpreter),
    ):
        shown |= {f"{part.__name__[1:]} {name}": value for name, value in part()}
    return shown


def view_of_any() -> dict[str, str]:
    """The same, to be compared with what another process shows."""
    shown = view()
    for name in [*(f"status {n}" for n in _PIDS), "status stat", "files autogroup"]:
        shown.pop(name, None)
    for name in ("sys", "builtins"):
        shown[f"interpreter {name}"] = sorted(shown[f"interpreter {name}"])
    return {name: re.sub("0x[0-9a-f]+", "", repr(value)) for name, value in shown.items()}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {one.get(name)!r} -> {other.get(name)!r}"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def of_no_library(differences: list[str]) -> list[str]:
    """Those that a process which is kept for its libraries may not have."""
    return [
        one
        for one in differences
        if not one.startswith(_OF_LIBRARIES) or one.startswith(_PLAIN_SETTINGS)
    ]


def _files() -> Iterator[tuple[str, object]]:
    for path in [*_PROC.iterdir(), *(_PROC / "attr").glob("*")]:
        if path.name in _CHANGING_FILES:
            continue
        try:
            if path.is_symlink():
                yield path.name, str(path.readlink())
            elif path.is_file():
                yield path.name, path.read_bytes()
        except OSError as error:
            yield path.name, error.errno
    for name in os.listdir("/proc/self/ns"):
        yield f"ns {name}", os.readlink(f"/proc/self/ns/{name}")


def _status() -> Iterator[tuple[str, object]]:
    for line in (_PROC / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if not name.startswith(_CHANGING_LINES) or name.startswith(_LOCKED_LINES):
            yield name, int(value, 16) & ~_LIBC_SIGNALS if name == "SigCgt" else value
    fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
    yield "stat", [fields[n - 3] for n in _STAT_FIELDS]


def _kernel() -> Iterator[tuple[str, object]]:
    for n in range(16):
        yield f"limit {n}", resource.getrlimit(n)
    for option in _PRCTL_VALUES:
        yield f"prctl {option}", _libc.prctl(option, 0, 0, 0, 0)
    for option in _PRCTL_STORED:
        place = ctypes.c_int()
        yield f"prctl {option}", (_libc.prctl(option, ctypes.byref(place), 0, 0, 0), place.value)
    yield "personality", _libc.personality(0xFFFFFFFF)
    yield "affinity", os.sched_getaffinity(0)
    yield "scheduler", (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)
    yield "root", os.stat("/")[1:3]
    yield "directory", os.getcwd()
    yield "ids", (os.getresuid(), os.getresgid(), os.getgroups())
    yield "children", "".join(p.read_text() for p in _PROC.glob("task/*/children"))
    numbers = _SYSCALLS.get(os.uname().machine)
    if numbers is not None:
        attributes = ctypes.create_string_buffer(56)
        _libc.syscall(numbers[0], 0, attributes, 56, 0)
        yield "sched_getattr", attributes.raw
        yield "ioprio", _libc.syscall(numbers[1], 1, 0)
        policy = ctypes.c_int()
        _libc.syscall(numbers[2], ctypes.byref(policy), 0, 0, 0, 0)
        yield "mempolicy", policy.value


def _open_files() -> Iterator[tuple[str, object]]:
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        with contextlib.suppress(OSError):  # the one that lists this directory
            info = (_PROC / f"fdinfo/{number}").read_text().splitlines()
            kept = [line for line in info if line.startswith(("flags", "lock"))]
            yield str(number), (_kind(os.readlink(f"/proc/self/fd/{number}")), kept)


def _held() -> Iterator[tuple[str, object]]:
    """What only one process can have."""
    locks, ports = [], 0
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            info = (_PROC / f"fdinfo/{number}").read_text().splitlines()
            locks += [line.split()[2] for line in info if line.startswith("lock:")]
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                with socket.socket(fileno=os.dup(number)) as found:
                    ports += found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    yield "locks", locks
    yield "ports", ports


def _kind(what: str) -> str:
    """A socket and a pipe have other numbers in another process; so has its /proc."""
    return what.partition(":")[0] if what.startswith(("socket:", "pipe:")) else _anonymous(what)


def _anonymous(path: str) -> str:
    return path.replace(f"/proc/{os.getpid()}/", "/proc/self/")


def _signals() -> Iterator[tuple[str, object]]:
    for number in range(1, signal.NSIG):
        if number in (32, 33):
            continue
        words = (ctypes.c_uint64 * 20)()
        _libc.sigaction(number, None, words)
        counts = words[0] > 1 or number == signal.SIGCHLD  # its flags, where there is no handler
        yield f"action {number}", (words[0], words[17] if counts else 0)
    for number in signal.valid_signals():
        yield f"handler {int(number)}", signal.getsignal(number)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        yield f"timer {timer}", signal.getitimer(timer)[0] > 0
    yield "mask", signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield "pending", signal.sigpending()
    wakeup = signal.set_wakeup_fd(-1)
    if wakeup != -1:
        signal.set_wakeup_fd(wakeup)
    yield "wakeup", wakeup


def _environment() -> Iterator[tuple[str, object]]:
    environ = ctypes.cast(ctypes.c_void_p.in_dll(_libc, "environ"), ctypes.POINTER(ctypes.c_char_p))
    strings, number = [], 0
    while environ and environ[number] is not None:
        strings.append(environ[number])
        number += 1
    yield "libc", sorted(s for s in strings if s is not None)
    yield "os", dict(os.environ)
    yield "time zone", (time.tzname, time.timezone, time.localtime(0)[:6])


def _interpreter() -> Iterator[tuple[str, object]]:
    for module in (sys, gc):
        for name in sorted(vars(module)):
            if name.startswith(("get", "is")) and name not in _CHANGING_ANSWERS:
                with contextlib.suppress(TypeError):  # it takes an argument
                    yield f"{module.__name__}.{name}", getattr(module, name)()
    yield "sys", {name: id(value) for name, value in vars(sys).items() if name != "path"}
    yield "builtins", {name: id(value) for name, value in vars(sys.modules["builtins"]).items()}
    for name in ("path", "argv", "meta_path", "path_hooks"):
        yield name, repr(getattr(sys, name))
    yield "locale", (locale.setlocale(locale.LC_ALL), sorted(map(str, locale.localeconv().items())))
    yield "warnings", [tuple(map(str, one)) for one in warnings.filters]
    yield "shown warning", _shows_a_warning()
    yield "decimal", str(decimal.getcontext())
    yield "context", sorted(var.name for var in contextvars.copy_context())
    yield "threads", (threading.active_count(), threading.gettrace(), threading.getprofile())
    yield "new threads", (threading.stack_size(), threading.excepthook)
    yield "thread", threading.main_thread().name
    yield "timeout", socket.getdefaulttimeout()
    yield "tracemalloc", tracemalloc.is_tracing()
    yield "callbacks", list(gc.callbacks)
    yield "event loop", _has_an_event_loop()
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        yield name, stream and (stream.encoding, stream.errors, stream.line_buffering)


def _shows_a_warning() -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("seen", stacklevel=1)
    return len(caught)


def _has_an_event_loop() -> bool:
    policy: Any = getattr(asyncio.events, "_event_loop_policy", None)
    local = getattr(policy, "_local", None)
    return getattr(local, "_set_called", False) or getattr(local, "_loop", None) is not None
