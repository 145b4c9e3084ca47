"""Imports and initializers that go wrong: calls end with the reason, and nothing waits."""

import ctypes
import fcntl
import importlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kinds import REACHED_S
from our_processes import guardian_process, task_processes, templates
from processes import until

from dask_limits import exceptions
from dask_limits.limits import CancelToken, Limits
from dask_limits.limits.owner import templates as owner_templates
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

N_AT_ONCE = 20
"""More than a template is asked for at one time."""


def call(guardian, fn, *args, **limits):
    return guardian.run(fn, args, {}, Limits(wall_time=60, **limits))


def crash():
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("initializer", "args", "why"),
    [
        (os._exit, [3], "exit code 3"),
        (sys.exit, [4], "SystemExit: 4"),
        (crash, [], "signal 11"),
        (os.kill, [0, signal.SIGKILL], "signal 9"),
        (open, ["/no/such/file"], "FileNotFoundError"),
    ],
    ids=["_exit", "exit", "crash", "kill", "raise"],
)
def test_each_call_that_waits_is_told_why_there_is_no_process_for_it(initializer, args, why):
    with (
        Guardian(preload=Preload.of([], initializer, args)) as guardian,
        ThreadPoolExecutor(N_AT_ONCE) as threads,
    ):
        ended = list(threads.map(lambda _: call(guardian, abs, -1), range(2 * N_AT_ONCE)))
        assert {type(end.exception) for end in ended} == {exceptions.PreloadError}
        assert all(why in str(end.exception) for end in ended)
        until(lambda: not task_processes(guardian))


def test_an_initializer_that_works_only_once_is_not_tried_all_the_time(tmp_path):
    tries = tmp_path / "tries"

    def begin_once():
        with tries.open("a") as file:
            file.write("x")
        if tries.read_text() != "x":
            raise RuntimeError("only once")

    with Guardian(preload=Preload.of([], begin_once)) as guardian:
        for _ in range(3):
            assert call(guardian, abs, -1, isolation="warm").value == 1
        used = guardian_process(guardian).cpu_times()
        assert call(guardian, time.sleep, 1, isolation="warm").ok
        assert len(tries.read_text()) <= 5
        now = guardian_process(guardian).cpu_times()
        assert now.user + now.system - used.user - used.system < 0.5


@pytest.mark.parametrize("where", ["template", "task process"])
def test_what_never_ends_is_ended_and_later_calls_are_told_at_once(where, monkeypatch, tmp_path):
    monkeypatch.setattr(owner_templates, "_PATIENCE_S", 1.0)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(3600)")
    preload = Preload.of(["sleeps"])
    if where == "task process":
        preload = Preload.of([], time.sleep, [3600])
    with Guardian(preload=preload) as guardian, ThreadPoolExecutor(4) as threads:
        ended = list(threads.map(lambda _: call(guardian, abs, -1), range(4)))
        ended.append(call(guardian, abs, -1))
        for end in ended:
            assert type(end.exception) is exceptions.PreloadError
            assert "not ready after 1 seconds" in str(end.exception)
        until(lambda: len(templates(guardian)) == 1)
        monkeypatch.setattr(owner_templates, "_PATIENCE_S", 60.0)  # on a busy machine too
        guardian.preload = Preload.of([], abs, [1])
        assert call(guardian, abs, -1).value == 1


def test_a_process_that_is_never_ready_ends_no_other(monkeypatch, tmp_path):
    monkeypatch.setattr(owner_templates, "_PATIENCE_S", 3.0)
    lock, begun, go_on = (tmp_path / name for name in ("lock", "begun", "go_on"))

    def take():
        sys.kept = lock.open("w")
        fcntl.flock(sys.kept, fcntl.LOCK_EX)

    def run():
        begun.touch()
        until(go_on.exists)
        return "well"

    with Guardian(preload=Preload.of([], take)) as guardian, ThreadPoolExecutor(1) as threads:
        running = threads.submit(call, guardian, run)
        until(begun.exists)
        ended = call(guardian, abs, -1)
        assert type(ended.exception) is exceptions.PreloadError
        assert "a new task process was not ready after 3 seconds" in str(ended.exception)
        until(lambda: len(task_processes(guardian)) == 1)
        go_on.touch()
        assert running.result().value == "well"
        until(lambda: len(templates(guardian)) == 1)


def test_a_call_that_waits_for_a_slow_initializer_can_be_cancelled():
    cancel = CancelToken()
    with Guardian(preload=Preload.of([], time.sleep, [3600])) as guardian:
        timer = threading.Timer(0.3, cancel.cancel)
        timer.start()
        end = guardian.run(abs, (-1,), {}, cancel=cancel)
        timer.join()
        assert type(end.exception) is exceptions.CallCancelledError


def test_what_is_done_before_calls_counts_for_none(tmp_path):
    def take():
        sys.kept = bytearray(b"x") * (200 * 2**20)
        time.sleep(1.2 * REACHED_S)
        sum(range(10**7))

    with Guardian(preload=Preload.of([], take)) as guardian:
        end = guardian.run(
            time.sleep, (0.05,), {}, Limits(wall_time=REACHED_S, cpu_time=0.2, memory="100 MiB")
        )
    assert end.ok
    assert end.usage.peak_memory < 100 * 2**20


def test_a_thread_that_an_initializer_starts_is_there_for_each_call():
    def begin():
        sys.ended = threading.Event()
        threading.Thread(target=sys.ended.wait, daemon=True).start()

    with Guardian(preload=Preload.of([], begin)) as guardian:
        pids = [call(guardian, os.getpid).value for _ in range(5)]
        assert len(set(pids)) < 5
        assert call(guardian, threading.active_count).value == 2


def test_a_module_that_changes_path_and_environment_does_so_for_each_call(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "changes.py").write_text(
        "import os, sys\nsys.path.insert(0, '/nowhere')\nos.environ['CHANGED'] = '1'\n"
        "os.environ.pop('UNWANTED')\n"
    )
    monkeypatch.setenv("UNWANTED", "1")

    def look():
        import changes  # noqa: F401

        return sys.path[0], os.environ.get("CHANGED"), os.environ.get("UNWANTED")

    with Guardian() as guardian:  # it learns that this is imported
        for _ in range(5):
            assert call(guardian, look).value == ("/nowhere", "1", None)
            time.sleep(0.05)
        monkeypatch.setenv("OTHER", "2")
        assert call(guardian, os.environ.get, "OTHER").value == "2"


def test_what_was_learned_never_keeps_a_call_from_running(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "only_once.py").write_text(
        "import os, threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        f"path = {str(tmp_path / 'imported')!r}\n"
        "if os.path.exists(path): os._exit(9)\n"
        "open(path, 'w').close()\n"
    )

    def use():
        import only_once  # noqa: F401

    with Guardian() as guardian:
        assert call(guardian, use).ok
        for _ in range(20):
            assert call(guardian, time.sleep, 0.05).ok


@pytest.fixture
def replacing(tmp_path, monkeypatch):
    """An installed module after whose import nobody can say what it has changed."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.syspath_prepend(str(installed))
    (installed / "replacing.py").write_text("import os\nos.environ = dict(os.environ)\n")
    return "replacing"


def test_a_learned_module_that_replaces_the_environment_keeps_no_call_from_running(replacing):
    def use():  # not the module itself, which would replace the test's
        importlib.import_module(replacing)

    with Guardian() as guardian:
        assert call(guardian, use).ok
        for _ in range(20):
            assert call(guardian, time.sleep, 0.05).ok


def test_a_preloaded_module_that_replaces_the_environment_is_said_to_be_why(replacing):
    with Guardian(preload=Preload.of([replacing])) as guardian:
        error = call(guardian, abs, -1).exception
        assert isinstance(error, exceptions.PreloadError)
        assert "AttributeError" in str(error)
