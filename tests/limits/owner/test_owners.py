"""Owners in odd circumstances, and that calls do not change their owner."""

import ctypes
import functools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from isolations import on_each, on_processes

from dask_limits.limits import Limits, limit
from dask_limits.limits.owner.guardian import Guardian, default_guardian


def run(fn, *args, **limits):
    return default_guardian().run(fn, args, {}, Limits(**limits))


@on_each()
def test_calls_leave_their_owner_as_it_was(isolated):
    def look():
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        streams = [(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in (0, 1, 2)]
        return Path.cwd(), dict(os.environ), handlers, mask, streams

    before = look()
    assert isolated(abs, wall_time=30)(-1) == 1
    assert isolated(time.sleep, wall_time=0.1).run(0.3).exception is not None
    assert look() == before


@on_processes
def test_calls_have_an_empty_stdin(isolated):
    assert isolated(_read_stdin, wall_time=30)() == b""


def _read_stdin():
    return os.read(0, 10)


def test_a_call_sees_the_environment_that_its_owner_has_when_it_is_made(monkeypatch):
    run(abs, 1)
    monkeypatch.setenv("LATE", "1")
    assert run(os.environ.get, "LATE", wall_time=30).result() == "1"
    monkeypatch.delenv("LATE")
    assert run(os.environ.get, "LATE", wall_time=30).result() is None


@on_processes
def test_proxies_of_the_owners_managers_connect_in_a_call_by_a_key_that_nobody_can_read(
    isolated,
):
    def use(items, lock, key):
        with lock:
            items.append(os.getpid())
        return [
            (name, pid)
            for pid in (os.getpid(), os.getppid())
            for name in ("cmdline", "environ")
            if key in Path(f"/proc/{pid}/{name}").read_bytes()
        ]

    process = multiprocessing.current_process()
    before = process.authkey
    try:
        for key in (bytes(before), b"another key"):
            process.authkey = key
            with multiprocessing.Manager() as manager:
                items = manager.list()
                assert isolated(use, wall_time=30)(items, manager.Lock(), key) == []
                assert len(items) == 1
    finally:
        process.authkey = before


def test_threads_can_change_environment_and_path_while_others_make_calls(monkeypatch, request):
    for n in range(300):  # it takes a while to copy that many
        monkeypatch.setenv(f"VARIABLE_{n}", "1")
        monkeypatch.syspath_prepend(f"/no/such/folder/{n}")
    request.addfinalizer(functools.partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(20e-6)
    is_over = threading.Event()

    def change():
        while not is_over.is_set():
            for n in range(50):
                os.environ[f"CHANGED_{n}"] = "1"
                sys.path.append(f"/no/such/folder/of/{n}")
            for n in range(50):
                del os.environ[f"CHANGED_{n}"]
                sys.path.pop()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        errors = {repr(run(abs, -1, wall_time=60).exception) for _ in range(100)}
    finally:
        is_over.set()
        thread.join()
    assert errors == {"None"}


def test_an_environment_larger_than_a_message_comes_through(monkeypatch):
    for n in range(10):
        monkeypatch.setenv(f"LARGE_{n}", "x" * 100_000)
    assert limit(len, wall_time=20)(b"abc") == 3
    assert limit(os.getenv, wall_time=20)("LARGE_9") == "x" * 100_000


def test_a_default_timeout_of_sockets_does_not_end_calls(monkeypatch):
    socket.setdefaulttimeout(0.1)
    try:
        with Guardian() as guardian:
            assert guardian.run(time.sleep, (0.3,), {}).ok
    finally:
        socket.setdefaulttimeout(None)


def test_the_owners_delays_do_not_count_against_a_call():
    stop = threading.Event()

    def hog():
        while not stop.is_set():
            ctypes.PyDLL(None).usleep(1_000_000)  # holds the GIL
            time.sleep(0.0005)

    hogging = threading.Thread(target=hog)
    hogging.start()
    try:
        for _ in range(2):
            assert run(len, bytes(2_000_000), wall_time=0.8).ok
            assert run(bytes, 2_000_000, wall_time=0.8).ok
    finally:
        stop.set()
        hogging.join()


@on_processes
@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_an_owner_without_standard_files_can_run_calls(isolated, closed, tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, sys, time\n"
        "from dask_limits.limits import limit\n"
        "def talk():\n"
        "    print('hello')\n"
        "    os.system('echo from below')\n"
        "    return 42\n"
        f"options = {isolated.options}\n"
        "outcome = limit(talk, wall_time=30, capture_output=True, **options).run()\n"
        "plain = limit(talk, wall_time=30, **options).run()\n"
        "late = limit(time.sleep, wall_time=0.2, **options).run(60).exception\n"
        "print_to = limit(os.readlink, wall_time=30, **options)('/proc/self/fd/1')\n"
        "assert 'dask-limits' not in print_to, print_to\n"
        "found = outcome.value, plain.value, outcome.usage.stdout, 'sleep' in str(late)\n"
        "open('result', 'w').write(repr(found))\n"
    )
    subprocess.run(["sh", "-c", f"{sys.executable} {script} {closed}"], check=True, cwd=tmp_path)
    assert (tmp_path / "result").read_text() == "(42, 42, 'hello\\nfrom below\\n', True)"


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


@on_processes
def test_an_owner_that_ignores_the_ends_of_children_can_run_calls(isolated):
    script = f"""if True:
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        from dask_limits.limits import limit
        from dask_limits.limits.owner.guardian import default_guardian
        options = {isolated.options}
        assert limit(abs, wall_time=30, **options)(-1) == 1
        assert limit(subprocess.call, wall_time=30, **options)(["false"]) == 1
        late = limit(time.sleep, wall_time=0.1, grace_period=0.1, **options).run(60).exception
        assert "sleep() went over" in str(late), late
        large = limit(bytearray, memory="100 MiB", **options).run(200 * 2**20).exception
        assert "bytearray() went over" in str(large), large
        assert limit(sys.exit, wall_time=30, **options).run(3).exception.exit_code == 3
        assert "SIGKILL" in str(limit(os.kill, wall_time=30, **options).run(0, 9).exception)
        reaper = default_guardian()._connection.pid
        default_guardian().close()
        assert not os.path.exists(f"/proc/{{reaper}}")
    """
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_an_owner_that_runs_out_of_files_gets_an_error_that_says_so():
    script = """if True:
        import os, resource
        from dask_limits.limits import limit
        call = limit(abs, wall_time=30)
        call(1)
        limit(os._exit, wall_time=30).run(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 64))
        files = []
        try:
            while True: files.append(open('/dev/null'))
        except OSError: pass
        error = limit(os._exit, wall_time=30).run(1).exception
        for options in ({}, {"capture_output": True}):
            error = limit(round, wall_time=30, **options).run(1).exception
            assert "could not be started" in str(error) and "files" in str(error), repr(error)
        error = limit(len, wall_time=30).run(bytes(10**6)).exception
        assert "could not be started" in str(error), repr(error)
        files.clear()
        assert call(-1) == 1
    """
    subprocess.run([sys.executable, "-c", script], check=True)


def test_odd_entries_of_the_path_harm_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path, b"/bytes", None, 3])
    with Guardian() as guardian:
        assert guardian.run(abs, (-1,), {}).result() == 1
        assert limit(abs, wall_time=30)(-1) == 1
