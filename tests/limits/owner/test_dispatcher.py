"""Many calls at a time, whose steps one thread takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import wait

import psutil
import pytest
from processes import until, wait_for

from dask_limits import exceptions, limit
from dask_limits.executors.processes import ProcessExecutor
from dask_limits.limits import Limits, Usage
from dask_limits.limits.owner.job import Job
from dask_limits.limits.packed_outcome import PackedOutcome


@pytest.fixture
def pool():
    with ProcessExecutor(4) as executor:
        yield executor


def our_threads():
    return [t for t in threading.enumerate() if t.name.startswith("dask-limits_")]


def test_calls_of_many_threads_all_end(pool):
    futures = []

    def submit_some(start):
        futures.extend(pool.submit(abs, -n) for n in range(start, start + 50))

    threads = [threading.Thread(target=submit_some, args=(n * 50,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(future.result(timeout=60) for future in futures) == list(range(200))


def test_one_thread_serves_all_calls_and_goes_with_the_pool(tmp_path):
    before = threading.active_count()
    with ProcessExecutor(16) as pool:
        call = limit(wait_for, wall_time=200)
        futures = [pool.submit(call, tmp_path / "go") for _ in range(16)]
        until(lambda: sum(future.running() for future in futures) == 16)
        assert len(our_threads()) == 1
        (tmp_path / "go").touch()
        wait(futures)
    assert threading.active_count() == before


def test_an_idle_pool_does_nothing(pool):
    pool.submit(abs, 1).result(timeout=60)
    until(lambda: not pool._dispatcher._is_asked)
    thread = psutil.Process().cpu_times()
    time.sleep(0.5)
    assert psutil.Process().cpu_times().user - thread.user < 0.2


class Slow:
    """It takes some time to be pickled."""

    def __reduce__(self):
        time.sleep(0.3)
        return int, ()


def test_calls_with_large_arguments_do_not_delay_others(pool):
    use = limit(type, wall_time=60)
    for _ in range(2):
        assert pool.submit(use, Slow()).result(timeout=60) is int
    threads = set()

    class Telling(Slow):
        def __reduce__(self):
            threads.add(threading.current_thread())
            return super().__reduce__()

    assert pool.submit(use, Telling()).result(timeout=60) is int
    assert len(threads) == 1
    futures = [pool.submit(use, Telling()) for _ in range(2)]
    [future.result(timeout=60) for future in futures]
    assert len(threads) > 1


def test_each_call_is_told_once_when_the_guardian_is_killed(pool):
    nap = limit(time.sleep, wall_time=60)
    futures = [pool.submit(nap, 30) for _ in range(4)]
    waiting = [pool.submit(abs, -n) for n in range(8)]
    until(lambda: all(future.running() for future in futures))
    until(lambda: pool._guardian._connection)
    connection = pool._guardian._connection
    until(lambda: len(connection._leases) == 4)
    [guardian] = psutil.Process(connection.pid).children()
    guardian.kill()
    for future in futures:
        assert isinstance(future.exception(timeout=60), exceptions.GuardianLostError)
    assert [future.result(timeout=60) for future in waiting] == list(range(8))


def test_calls_that_wait_for_processes_run_when_the_guardian_is_killed():
    for _ in range(10):
        with ProcessExecutor(8) as pool:
            futures = [pool.submit(limit(abs, wall_time=60), -n) for n in range(30)]
            until(lambda: pool._guardian._connection)
            for guardian in psutil.Process(pool._guardian._connection.pid).children():
                guardian.kill()
            errors = {type(future.exception(timeout=60)) for future in futures}
        assert errors <= {type(None), exceptions.GuardianLostError}


def test_calls_in_threads_run_at_the_same_time_after_a_shutdown():
    met = threading.Barrier(4)
    with ProcessExecutor(4) as pool:
        futures = [pool.submit(limit(met.wait, isolation="thread"), 60) for _ in range(8)]
    assert sorted(future.result() for future in futures) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_call_that_was_refused_for_want_of_a_thread_does_not_run(pool, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    called = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start"):
                pool.submit(limit(called.set, isolation="thread"))
    for n in range(20):
        assert pool.submit(abs, -n).result(timeout=60) == n
    assert not called.is_set()
    blocking = limit(len, isolation="thread")  # in threads of their own
    assert [pool.submit(blocking, "ab").result(timeout=60) for _ in range(5)] == [2] * 5


def test_a_fork_has_a_pool_of_its_own(pool):
    assert pool.submit(abs, -1).result(timeout=60) == 1
    nap = pool.submit(limit(time.sleep, wall_time=60), 1)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(pool.submit(abs, -2).result(timeout=60))
        finally:
            os._exit(100)
    assert nap.result(timeout=60) is None
    assert pool.submit(abs, -3).result(timeout=60) == 3
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2


def test_a_done_callback_may_shut_down(pool):
    done = threading.Event()

    def end(_):
        pool.shutdown()
        done.set()

    pool.submit(abs, -1).add_done_callback(end)
    assert done.wait(60)


def test_output_of_many_calls_is_captured_while_others_go_on(pool):
    def talk(word):
        for _ in range(20_000):
            print(word * 10)
        return word

    talking = limit(talk, wall_time=60, capture_output=1000)
    futures = {word: pool.submit(talking, word) for word in "abcdef"}
    for word, future in futures.items():
        assert future.result(timeout=60) == word
        assert set(future.usage.stdout.split("[")[0].strip()) <= {word, "\n"}


def test_waiting_and_running_calls_are_cancelled(pool):
    nap = limit(time.sleep, wall_time=60)
    futures = [pool.submit(nap, 30) for _ in range(8)]
    until(lambda: sum(future.running() for future in futures) == 4)
    before = time.monotonic()
    assert all(future.cancel() for future in reversed(futures))
    assert pool.submit(abs, -1).result(timeout=60) == 1
    assert time.monotonic() - before < 20


def test_a_done_callback_may_raise_anything(pool):
    def leave(_):
        raise SystemExit

    for _ in range(3):
        pool.submit(abs, -1).add_done_callback(leave)
    assert pool.submit(abs, -2).result(timeout=60) == 2


def test_a_done_callback_may_submit(pool):
    ended = threading.Event()
    left = [30]

    def again(_):
        left[0] -= 1
        if left[0]:
            pool.submit(abs, -1).add_done_callback(again)
        else:
            ended.set()

    pool.submit(abs, -1).add_done_callback(again)
    assert ended.wait(60)


def test_a_signals_handler_may_submit_while_its_thread_does(pool):
    futures = []
    before = signal.signal(signal.SIGALRM, lambda *_: futures.append(pool.submit(abs, -1)))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        own = [pool.submit(abs, -n) for n in range(300)]
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [future.result(timeout=60) for future in own] == list(range(300))
    assert {future.result(timeout=60) for future in futures} <= {1}


def test_a_program_ends_when_its_calls_have(tmp_path):
    program = """
        import os, sys, time
        from dask_limits import limit
        from dask_limits.executors.processes import ProcessExecutor

        def write(name):
            time.sleep(0.3)
            open(name, "w").close()

        if __name__ == "__main__":
            pool = ProcessExecutor(2)
            for n in range(4):
                pool.submit(limit(write, wall_time=60), os.path.join(sys.argv[1], str(n)))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_an_error_in_the_dispatcher_itself_fails_calls_and_is_not_the_end(pool):
    nap = limit(time.sleep, wall_time=60)
    running = [pool.submit(nap, 30) for _ in range(4)]
    until(lambda: all(future.running() for future in running))
    wait, errors = pool._dispatcher._wait, [OSError("out of order")]

    def break_once():
        if errors:
            raise errors.pop()
        return wait()

    pool._dispatcher._wait = break_once
    waiting = pool.submit(abs, -1)
    for future in [*running, waiting]:
        assert isinstance(future.exception(timeout=60), OSError)
    assert pool.submit(abs, -2).result(timeout=60) == 2


def test_calls_that_wait_for_no_file_take_one_step_at_a_time(pool):
    dispatcher, steps = pool._dispatcher, []

    class Pausing(Job):
        def tell(self):
            ended.set()

    def take_steps(group):
        for _ in range(50):
            steps.append(len(dispatcher._pausing))
            dispatcher.nudge()
            yield ()
        usage = Usage(wall_time=0.0, cpu_time=0.0)
        group.end_first(PackedOutcome("pausing", group.limits, usage))

    dispatcher._steps = take_steps
    ended = threading.Event()
    dispatcher.add(Pausing(abs, (), {}, Limits(wall_time=60)))
    assert ended.wait(60)
    assert set(steps) == {0}


def test_nothing_can_be_submitted_after_shutdown():
    pool = ProcessExecutor(1)
    future = pool.submit(abs, -1)
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, -2)
    assert future.result(timeout=60) == 1
