"""The task process: runs the calls of one owner, one at a time, and says how they ended."""

from __future__ import annotations

import faulthandler
import importlib
import io
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any, Final, NoReturn

import cloudpickle

from dask_limits.limits import messages, prctl, wire

STACKS_SIGNAL: Final = signal.SIGRTMAX - 2
"""On this a task process writes its Python stacks; chosen to be nobody else's."""


def run(sock_fd: int, stacks_fd: int) -> NoReturn:
    """Be a task process, in a new child of the guardian, until the owner closes the socket.

    Args:
        sock_fd: Where calls come in and answers go out.
        stacks_fd: The file for Python stacks.
    """
    try:
        _settle_in(sock_fd, stacks_fd)
        serve(socket.socket(fileno=sock_fd))
    except (BrokenPipeError, ConnectionError):
        pass  # the owner has given up on this call, or is gone
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _settle_in(sock_fd: int, stacks_fd: int) -> None:
    """Shake off what a fork of the guardian brings along."""
    prctl.die_with_parent(signal.SIGKILL)
    prctl.become_subreaper()
    prctl.set_name("limits-task")
    os.setsid()  # signals to its process group are for nobody else
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    low, high = sorted((sock_fd, stacks_fd))
    os.closerange(3, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, os.sysconf("SC_OPEN_MAX"))
    faulthandler.enable(stacks_fd)
    faulthandler.register(STACKS_SIGNAL, stacks_fd, all_threads=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a call that is killed has printed its lines


def serve(sock: socket.socket) -> None:
    """Answer requests until the other end is closed."""
    receiver = wire.Receiver(sock)
    peak_before = _max_resident()
    while (message := receiver.receive()) is not None:
        kind, number, body = message
        if kind == messages.SETTING:
            _take_over(pickle.loads(body))
            continue
        start = time.monotonic()
        cpu_before = time.process_time()
        children_before = _children_cpu_time()
        kind, answer = _answer(body)
        children_now = _children_cpu_time()
        peak_now = _max_resident()
        account = messages.ACCOUNT.pack(
            time.monotonic() - start,
            time.process_time() - cpu_before + children_now - children_before,
            children_now,
            peak_now if peak_now > peak_before else _resident(),
            _leaves_something(),
        )
        wire.send(sock, kind, number, account + answer)
        del message, body, answer  # may be large, and must not count against the next call
        peak_before = _max_resident()


def _take_over(setting: messages.Setting) -> None:
    sys.path[:] = setting.path
    importlib.invalidate_caches()
    try:
        os.chdir(setting.directory)
    except OSError:
        pass  # the owner's directory has been removed


def _answer(request: memoryview) -> tuple[int, bytes]:
    """Run one call to its end, and put its end into bytes."""
    try:
        fn, args, kwargs = pickle.loads(request)
    except BaseException as error:
        return _unpicklable("arguments", error)
    try:
        value = fn(*args, **kwargs)
    except SystemExit as error:
        return messages.EXITED, pickle.dumps(_exit_code(error))
    except BaseException as error:
        return _pack_exception(error)
    finally:
        _flush()
    try:
        return messages.RETURNED, _dumps(value)
    except BaseException as error:
        return _unpicklable("result", error)


def _pack_exception(error: BaseException) -> tuple[int, bytes]:
    text = _text(error)
    try:
        packed = _dumps((error, text))
        pickle.loads(packed)  # many exceptions can be pickled, but not unpickled
    except BaseException as why:
        return _unpicklable("exception", why, f"{type(error).__name__}: {error}", text)
    return messages.RAISED, packed


def _unpicklable(
    part: str, error: BaseException, what: str = "", text: str = ""
) -> tuple[int, bytes]:
    why = f"{type(error).__name__}: {error}"
    return messages.UNPICKLABLE, pickle.dumps((part, why, what, text or _text(error)))


def _dumps(value: Any) -> bytes:
    """Pickle a value; by value where the plain way, by name, does not do."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        packed: bytes = cloudpickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        return packed


def _text(error: BaseException) -> str:
    """The traceback as Python prints it, from the user's own function on."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    own: TracebackType | None = tb
    return "".join(traceback.format_exception(type(error), error, own))


def _exit_code(error: SystemExit) -> int:
    """What the interpreter would have made of it: sys.exit(None) is 0, sys.exit("text") is 1."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed by the call, or a pipe without a reader
            pass


def _leaves_something() -> bool:
    """Whether a call has left a child, or a thread that would keep the process alive."""
    main = threading.main_thread()
    if any(not thread.daemon and thread is not main for thread in threading.enumerate()):
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children_cpu_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _max_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no files left to open
        return 0
