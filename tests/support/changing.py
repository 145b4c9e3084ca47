"""Ways in which a call can change its process. Each takes a number, to do it in one of some ways.

One that its process may not do raises OSError. None touches what is not its own.
"""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import ctypes
import decimal
import encodings.latin_1  # noqa: F401  (a process that is no longer root may not read it)
import faulthandler
import fcntl
import gc
import locale
import os
import random
import resource
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

KEPT: list[Any] = []
"""What a call has left, and would be collected otherwise."""
_libc = ctypes.CDLL(None, use_errno=True)
_variable: contextvars.ContextVar[int] = contextvars.ContextVar("left", default=0)
Change = Callable[[int], object]


def _c(name: str, *arguments: Any) -> int:
    result: int = getattr(_libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def _prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(n) for n in (*arguments, 0, 0, 0, 0)[:4]]
    return _c("prctl", option, *padded)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _keep(value: Any) -> None:
    KEPT.append(value)


def _open_files() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208


def _of(number: int, *choices: Any) -> Any:
    return choices[number % len(choices)]


# -- what the kernel shows -------------------------------------------------------------------


def _lower_a_limit(n: int) -> None:
    kind = n % 16
    hard = resource.getrlimit(kind)[1]
    most = 2**40 if kind not in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC) else 200
    hard = _of(n // 16, hard, most)
    resource.setrlimit(kind, (_of(n // 32, most, most - 1), hard))


def _leak_files(n: int) -> None:
    for _ in range(n % 3 + 1):
        _keep(os.open("/dev/null", os.O_RDONLY))


def _leave_other_file(n: int) -> None:
    """The lowest free number is free after it, too."""
    lower, higher = os.open("/dev/null", os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY)
    os.close(lower)
    _keep(higher)


def _leave_a_lock(n: int) -> None:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    way = n % 3
    if way == 0:
        fcntl.lockf(file, fcntl.LOCK_EX)
    elif way == 1:
        fcntl.flock(file, fcntl.LOCK_EX)
    else:
        lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, 37, lock)  # F_OFD_SETLK
    _keep(file)


def _listen(n: int) -> None:
    if n % 2:
        server = socket.socket(socket.AF_UNIX)
        server.bind("")  # to a name that nothing has
    else:
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
    server.listen()
    _keep(server)


def _replace_a_file(n: int) -> None:
    """Put something else in the place of a file that is open."""
    numbers = _open_files()
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(descriptor, numbers[n % len(numbers)])
    if numbers[n % len(numbers)] != descriptor:
        os.close(descriptor)


def _close_a_file(n: int) -> None:
    numbers = _open_files()
    os.close(numbers[n % len(numbers)])


def _change_ids(n: int) -> None:
    if n % 5 == 0:
        os.seteuid(65534)
    elif n % 5 == 1:
        os.setegid(65534)
    elif n % 5 == 2:
        os.setgroups([*os.getgroups(), 12345])
    elif n % 5 == 3:
        os.seteuid(65534)
        os.seteuid(0)
    else:
        os.setresuid(-1, -1, 65534)


def _drop_a_capability(n: int) -> None:
    _prctl(24, n % 40)  # PR_CAPBSET_DROP


def _enter_a_namespace(n: int) -> None:
    # CLONE_NEW: USER, NET, UTS, IPC, NS, CGROUP, PID
    flags = (0x10000000, 0x40000000, 0x04000000, 0x08000000, 0x00020000, 0x02000000, 0x20000000)
    wanted = _of(n, *flags)
    _c("unshare", wanted if n // 7 % 2 == 0 else wanted | flags[0])


def _change_root(n: int) -> None:
    os.chroot(_of(n, "/tmp", "/usr"))
    os.chdir("/")


def _change_scheduling(n: int) -> None:
    policy = _of(n, os.SCHED_BATCH, os.SCHED_IDLE, os.SCHED_RR)
    reset = os.SCHED_RESET_ON_FORK if n // 3 % 2 else 0
    os.sched_setscheduler(0, policy | reset, os.sched_param(int(policy == os.SCHED_RR)))


def _change_scheduling_in_c(n: int) -> None:
    """A slice of CPU time, or a least part of a processor: only sched_setattr(2) sets them."""
    numbers = {"x86_64": 314, "aarch64": 274}
    attributes = (ctypes.c_uint32 * 14)(56, 0, 0, 0)
    if n % 2:
        attributes[6] = 5_000_000
    else:
        attributes[2], attributes[12] = 0x20, 100
    _c("syscall", numbers[os.uname().machine], 0, attributes, 0)


def _write_about_itself(n: int) -> None:
    """Each file below /proc/self that can be written."""
    files = {
        "oom_score_adj": str(n % 900 + 1),
        "coredump_filter": hex(n % 511 + 1),
        "comm": f"renamed {n}",
        "timerslack_ns": str(60_000 + n),
        "autogroup": str(n % 10 + 1),
        "loginuid": str(n),
        "oom_adj": "5",
        "setgroups": "deny",
        "uid_map": "0 0 1",
    }
    name = _of(n, *files)
    _write(f"/proc/self/{name}", files[name])


def _prctls(n: int) -> None:
    option, value = _of(
        n,
        *((1, signal.SIGUSR1), (1, 0), (4, 0), (8, 1), (26, 2), (28, 0), (29, 77_777), (36, 0)),
        *((38, 1), (41, 1), (33, 1), (57, 1), (65, 1), (67, 1)),
    )
    _prctl(option, value, 1) if option == 33 else _prctl(option, value)


def _change_personality(n: int) -> None:
    _c("personality", _of(n, 0x0040000, 0x0000008, 0x0020000))


def _change_io_priority(n: int) -> None:
    number = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
    _c("syscall", number, 1, 0, _of(n, 2, 3) << 13 | n % 8)


def _change_memory_policy(n: int) -> None:
    number = {"x86_64": 238, "aarch64": 237}[os.uname().machine]
    _c("syscall", number, 4, None, 0)  # MPOL_LOCAL


def _lock_memory(n: int) -> None:
    _c("mlockall", _of(n, 1, 2))


def _become_a_terminals_leader(n: int) -> None:
    leader = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(leader, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK
        number = int.from_bytes(fcntl.ioctl(leader, 0x80045430, b"\0\0\0\0"), sys.byteorder)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.close(os.open(f"/dev/pts/{number}", os.O_RDWR))
    finally:
        os.close(leader)


def _change_a_handler(n: int) -> None:
    number = n % 60 + 1
    if number in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
        return
    way = n // 60 % 4
    if way == 0:
        signal.signal(number, lambda *_: None)
    elif way == 1:
        signal.signal(number, signal.SIG_IGN)
    elif way == 2:
        signal.siginterrupt(number, True)
    else:
        _libc.signal(number, ctypes.cast(_libc.abs, ctypes.c_void_p))


def _ignore_children_in_c(n: int) -> None:
    action = (ctypes.c_uint64 * 20)()
    action[17] = _of(n, 1, 2)  # SA_NOCLDSTOP, SA_NOCLDWAIT
    _c("sigaction", signal.SIGCHLD, action, None)


def _leave_a_signal(n: int) -> None:
    number = _of(n, signal.SIGUSR1, signal.SIGUSR2)
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    if n % 3:
        os.kill(os.getpid(), number)
    if n % 5 == 0:
        signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def _set_a_timer(n: int) -> None:
    signal.setitimer(_of(n, 0, 1, 2), 1000, _of(n // 3, 0, 1000))


def _make_a_timer_in_c(n: int) -> None:
    event = (ctypes.c_uint32 * 16)(0, 0, 0, 1)  # SIGEV_NONE
    timer = ctypes.c_void_p()
    _c("timer_create", time.CLOCK_MONOTONIC, event, ctypes.byref(timer))


def _leave_a_thread(n: int) -> None:
    if n % 2:
        threading.Thread(target=time.sleep, args=(0.05,), daemon=True).start()
    else:
        thread = ctypes.c_ulong()
        _c("pthread_create", ctypes.byref(thread), None, _libc.pause, None)


def _leave_a_child(n: int) -> None:
    if (child := os.fork()) == 0:
        if n % 3:
            time.sleep(0.01 * (n % 5))
        os._exit(0)
    if n % 2:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


def _use_and_tidy_up(n: int) -> None:
    """What good calls do leaves nothing."""
    if n % 4 == 0:
        thread = threading.Thread(target=time.sleep, args=(0,))
        thread.start()
        thread.join()
    elif n % 4 == 1:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    elif n % 4 == 2:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
    else:
        before = os.umask(0o77)
        os.umask(before)


# -- what the C library and the interpreter show ---------------------------------------------


def _change_the_environment(n: int) -> None:
    name = _of(n, "HARM", "PATH", "TZ", "LC_ALL")
    value = _of(n // 4, "1", "Asia/Tokyo", "C")
    way = n // 12 % 6
    if way == 0:
        os.environ[name] = value
    elif way == 1:
        os.environ.pop(name, None)
    elif way == 2:
        os.putenv(name, value)
    elif way == 3:
        os.unsetenv(name)
    elif way == 4:
        os.environ.clear()
    else:
        _c("clearenv")
    if n % 2:
        time.tzset()


def _change_directory(n: int) -> None:
    if n % 3:
        os.chdir(_of(n, "/", "/usr"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)


def _change_sys(n: int) -> None:
    way = n % 24
    if way == 0:
        sys.setrecursionlimit(1000 + n)
    elif way == 1:
        sys.setswitchinterval(0.001 * (n + 1))
    elif way == 2:
        sys.setdlopenflags(sys.getdlopenflags() ^ os.RTLD_GLOBAL)
    elif way == 3:
        sys.set_int_max_str_digits(1000 + n)
    elif way == 4:
        sys.set_asyncgen_hooks(firstiter=print)
    elif way == 5:
        sys.set_coroutine_origin_tracking_depth(n)
    elif way == 6:
        sys.setprofile(_nothing)
    elif way == 7:
        sys.settrace(_nothing)
    elif way == 8:
        threading.setprofile(_nothing)
    elif way == 9:
        threading.settrace(_nothing)
    elif way < 18:
        names = ("excepthook", "displayhook", "unraisablehook", "breakpointhook", "stdout")
        setattr(sys, _of(n, *names, "argv", "dont_write_bytecode", "new"), _of(n // 18, [n], None))
    elif way == 18:
        sys.argv.append(str(n))
    elif way == 19:
        sys.path[:] = _of(n, [], [str(n), *sys.path])
    elif way == 20:
        sys.meta_path.append(str)
    elif way == 21:
        sys.path_hooks.clear()
    elif way == 22:
        sys.path = [str(n)]
    elif sys.stdout is not None:
        sys.stdout.reconfigure(encoding="latin-1", line_buffering=False)


def _change_threads(n: int) -> None:
    way = n % 3
    if way == 0:
        threading.stack_size((n + 64) * 4096)
    elif way == 1:
        threading.excepthook = _nothing
    else:
        threading.main_thread().name = f"thread {n}"


def _nothing(*_: object) -> None:
    return None


def _change_builtins(n: int) -> None:
    name = _of(n, "print", "open", "left", "_")
    setattr(builtins, name, _of(n // 4, _nothing, n))


def _change_gc(n: int) -> None:
    way = n % 4
    if way == 0:
        gc.disable()
    elif way == 1:
        gc.set_threshold(n, 1, 1)
    elif way == 2:
        gc.set_debug(gc.DEBUG_SAVEALL)
    else:
        gc.callbacks.append(_nothing)


def _change_libraries(n: int) -> None:
    way = n % 11
    if way == 0:
        warnings.simplefilter(_of(n, "ignore", "error"))
    elif way == 1:
        warnings.resetwarnings()
    elif way == 2:
        locale.setlocale(_of(n // 11, locale.LC_ALL, locale.LC_NUMERIC), "C.UTF-8")
        locale.setlocale(locale.LC_ALL, "C")
    elif way == 3:
        decimal.getcontext().prec = n % 50 + 1
    elif way == 4:
        _variable.set(n)
    elif way == 5:
        socket.setdefaulttimeout(n)
    elif way == 6:
        tracemalloc.start()
    elif way == 7:
        asyncio.run(asyncio.sleep(0))
    elif way == 8:
        asyncio.set_event_loop(asyncio.new_event_loop())
    elif way == 9:
        asyncio.set_event_loop_policy(_Policy())
    else:
        random.seed(n)


class _Policy(asyncio.DefaultEventLoopPolicy):
    """As a library installs it."""


def _change_stacks(n: int) -> None:
    way = n % 5
    if way == 0:
        faulthandler.disable()
    elif way == 1:
        faulthandler.enable(1)
    elif way == 2:
        faulthandler.register(_of(n // 5, signal.SIGUSR1, signal.SIGUSR2), 1)
    elif way == 3:
        faulthandler.unregister(signal.SIGRTMAX - 2)
    else:
        faulthandler.dump_traceback_later(1000, exit=True, file=1)


def _set_a_wakeup_file(n: int) -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    signal.set_wakeup_fd(one.fileno())
    if n % 2:
        _keep((one, other))


CHANGES: dict[str, Change] = {
    name.strip("_"): function
    for name, function in [*globals().items()]
    if name.startswith("_")
    and getattr(function, "__module__", "") == __name__
    and name not in ("_c", "_prctl", "_write", "_keep", "_of", "_open_files", "_nothing", "_Policy")
} | {
    "umask": lambda n: os.umask(n % 0o777) and None,
    "nice": lambda n: os.nice(n % 5 + 1) and None,
    "affinity": lambda n: os.sched_setaffinity(0, [*os.sched_getaffinity(0)][: n % 2 + 1]),
    "inheritable": lambda n: os.set_inheritable(n % 3, False),
    "group": lambda n: os.setpgid(0, 0),
    "subreaper": lambda n: _prctl(36, 0),
}


def change(name: str, number: int) -> None:
    """Make one of these changes, in a call of more than a millisecond."""
    try:
        CHANGES[name](number)
    finally:
        time.sleep(0.002)
