"""Calls that do what calls should not do, and owners in odd circumstances."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from dask_limits import exceptions
from dask_limits.limits import CancelToken, LimitedCall, Limits, limit
from dask_limits.limits.guardian import Guardian, default_guardian


def run(fn, *args, **limits):
    return default_guardian().run(LimitedCall(fn, Limits(**limits)), args, {})


def test_an_answer_that_comes_only_because_the_call_is_being_ended_does_not_count():
    def nap():
        return ctypes.CDLL(None).usleep(900_000)  # a signal makes it return, with -1

    for _ in range(5):
        assert isinstance(run(nap, wall_time=0.1).exception, exceptions.WallTimeBreach)
    token = CancelToken()
    timer = threading.Timer(0.1, token.cancel)
    timer.start()
    outcome = default_guardian().run(LimitedCall(nap), (), {}, cancel=token)
    timer.join()
    assert isinstance(outcome.exception, exceptions.CallCancelledError)


def with_every_file(harm):
    """Do something to each open file of this process, the standard ones left alone."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - its names are numbers
        try:
            if fd > 2:
                harm(fd)
        except OSError:
            pass


@pytest.mark.parametrize("noise", [b"x", b"x" * 17, b"x" * 300], ids=len)
def test_a_call_that_writes_to_every_open_file_is_none_the_worse(noise):
    with Guardian() as guardian:
        spoil = LimitedCall(lambda: with_every_file(lambda fd: os.write(fd, noise)))
        for _ in range(3):
            assert guardian.run(spoil, (), {}).ok


def test_a_call_that_closes_every_open_file_is_run_once_and_told_so(tmp_path):
    count = tmp_path / "count"

    def spoil():
        with count.open("a") as file:
            file.write("x")
        with_every_file(os.close)

    with Guardian() as guardian:
        error = guardian.run(LimitedCall(spoil), (), {}).exception
        assert isinstance(error, exceptions.CrashError)
        assert "a file that is not its own" in str(error)
        assert count.read_text() == "x"
        assert guardian.run(LimitedCall(abs), (-1,), {}).result() == 1


def test_a_call_that_closes_low_files_as_a_daemon_does_is_none_the_worse():
    assert run(lambda: os.closerange(3, 256), wall_time=30).ok


def test_a_child_that_returns_from_the_call_too_is_not_heard():
    def split():
        if os.fork() == 0:
            return "child"
        time.sleep(0.2)
        return "parent"

    for _ in range(3):
        assert run(split, wall_time=30).result() == "parent"
    assert run(abs, -1, num_processes=1).result() == 1


def test_limits_hold_when_the_main_thread_is_gone():
    def leave():
        threading.Thread(target=time.sleep, args=(600,)).start()
        ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread alone

    start = time.monotonic()
    assert isinstance(run(leave, wall_time=0.3).exception, exceptions.WallTimeBreach)
    assert time.monotonic() - start < 30


def test_cpu_time_of_children_that_nobody_waits_for_counts():
    def ignore():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        spin = "import time; t = time.process_time() + 0.15\nwhile time.process_time() < t: pass"
        for _ in range(20):
            subprocess.Popen([sys.executable, "-c", spin]).wait()

    assert isinstance(run(ignore, cpu_time=0.6).exception, exceptions.CpuTimeBreach)


CHANGES = {
    "directory": (lambda: os.chdir("/"), os.getcwd),
    "environment": (lambda: os.environ.update(HARM="1"), lambda: os.environ.get("HARM")),
    "path": (lambda: sys.path.insert(0, "/harm"), lambda: list(sys.path)),
    "umask": (lambda: os.umask(0o123) and None, lambda: os.umask(0o77)),
    "rlimit": (
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    ),
    "handler": (
        lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN) and None,
        lambda: repr(signal.getsignal(signal.SIGUSR1)),
    ),
    "mask": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]) and None,
        lambda: sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    ),
    "timer": (lambda: signal.alarm(1) and None, lambda: signal.getitimer(signal.ITIMER_REAL)),
    "nice": (lambda: os.nice(5) and None, lambda: os.nice(0)),
    "stdout": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout is None),
    "socket timeout": (lambda: socket.setdefaulttimeout(0.1), socket.getdefaulttimeout),
    "daemon thread": (
        lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start(),
        threading.active_count,
    ),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_a_call_changes_about_its_process_the_next_call_does_not_find(change):
    harm, look = CHANGES[change]
    before = run(look, wall_time=30).result()
    for _ in range(2):
        run(harm, wall_time=30).result()
        assert run(look, wall_time=30).result() == before


def test_a_call_that_comes_while_its_process_ends_as_unfit_runs_in_another():
    leave = LimitedCall(
        lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    )
    with Guardian() as guardian:
        for n in range(150):
            assert guardian.run(leave, (), {}).ok
            time.sleep(n % 10 * 0.0002)  # anywhere within the time in which it ends
            assert guardian.run(LimitedCall(abs), (-n,), {}).result() == n


def test_a_call_sees_the_environment_that_its_owner_has_when_it_is_made(monkeypatch):
    run(abs, 1)
    monkeypatch.setenv("LATE", "1")
    assert run(os.environ.get, "LATE", wall_time=30).result() == "1"
    monkeypatch.delenv("LATE")
    assert run(os.environ.get, "LATE", wall_time=30).result() is None


def test_an_environment_larger_than_a_message_comes_through(monkeypatch):
    for n in range(10):
        monkeypatch.setenv(f"LARGE_{n}", "x" * 100_000)
    assert limit(len, wall_time=20)(b"abc") == 3
    assert limit(os.getenv, wall_time=20)("LARGE_9") == "x" * 100_000


def test_a_default_timeout_of_sockets_does_not_end_calls(monkeypatch):
    socket.setdefaulttimeout(0.1)
    try:
        with Guardian() as guardian:
            assert guardian.run(LimitedCall(time.sleep), (0.3,), {}).ok
    finally:
        socket.setdefaulttimeout(None)


def test_the_owners_delays_do_not_count_against_a_call():
    stop = threading.Event()

    def hog():
        while not stop.is_set():
            ctypes.PyDLL(None).usleep(300_000)  # holds the GIL
            time.sleep(0.0005)

    hogging = threading.Thread(target=hog)
    hogging.start()
    try:
        for _ in range(2):
            assert run(len, bytes(2_000_000), wall_time=0.2).ok
            assert run(bytes, 2_000_000, wall_time=0.2).ok
    finally:
        stop.set()
        hogging.join()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_an_owner_without_standard_files_can_run_calls(closed, tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(
        "from dask_limits.limits import limit\n"
        "call = limit(lambda: print('hello') or 42, wall_time=30)\n"
        "open('result', 'w').write(str(call()))\n"
    )
    subprocess.run(["sh", "-c", f"{sys.executable} {script} {closed}"], check=True, cwd=tmp_path)
    assert (tmp_path / "result").read_text() == "42"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_functions_of_a_script_work_in_every_kind_of_pool(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from dask_limits.limits import limit\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    with ProcessPoolExecutor(1, mp_context=context) as pool:\n"
        "        assert pool.submit(limit(double, wall_time=30), 21).result() == 42\n"
    )
    subprocess.run([sys.executable, str(script)], check=True)


def test_an_owner_that_runs_out_of_files_gets_an_error_that_says_so():
    script = """if True:
        import os, resource
        from dask_limits.limits import limit
        call = limit(abs, wall_time=30)
        call(1)
        limit(os._exit, wall_time=30).run(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
        files = []
        try:
            while True: files.append(open('/dev/null'))
        except OSError: pass
        error = limit(os._exit, wall_time=30).run(1).exception
        error = limit(abs, wall_time=30).run(1).exception
        assert "could not be started" in str(error) and "files" in str(error), repr(error)
        files.clear()
        assert call(-1) == 1
    """
    subprocess.run([sys.executable, "-c", script], check=True)


def test_odd_exceptions_come_as_errors_and_never_out_of_run():
    class NoText(Exception):
        def __init__(self):
            self.lock = threading.Lock()

        def __str__(self):
            raise ValueError("no text")

    class Impostor(Exception):
        def __reduce__(self):
            return str, ("not an exception",)

    def fail(kind):
        raise kind()

    for kind in (NoText, Impostor):
        error = run(fail, kind, wall_time=30).exception
        assert isinstance(error, exceptions.CallPicklingError)
        assert error.part == "exception"


def test_a_value_whose_rebuilding_exits_does_not_exit_its_owner():
    owner = os.getpid()

    class Exits:
        def __reduce__(self):
            code = f"import os\nif os.getpid() == {owner}: raise SystemExit(3)"
            return exec, (code,)

    error = run(Exits, wall_time=30).exception
    assert isinstance(error, exceptions.CallPicklingError)
    assert error.part == "result"


def test_odd_entries_of_the_path_harm_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path, b"/bytes", None, 3])
    with Guardian() as guardian:
        assert guardian.run(LimitedCall(abs), (-1,), {}).result() == 1
        assert limit(abs, wall_time=30)(-1) == 1
