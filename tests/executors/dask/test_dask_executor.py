"""Calls through a Dask client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from clusters import nothing_is_left_behind, nothing_sent  # noqa: F401
from distributed import Client, LocalCluster, Scheduler, SchedulerPlugin, get_worker
from noting import count_run, wait_for
from processes import alive, children, start_sleeping, until, written_pid

from dask_limits.exceptions import (
    CallPicklingError,
    ClusterLostError,
    ExitError,
    LimitRefusedError,
    RemoteTraceback,
    WallTimeBreach,
    WorkerLostError,
)
from dask_limits.executors.dask import sender
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.executors.dask.submissions import Submission
from dask_limits.future import Future
from dask_limits.limits import limit

SETTINGS = {"dashboard_address": "127.0.0.1:0", "threads_per_worker": 1}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=2, **SETTINGS) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def executor(client: Client) -> Iterator[DaskExecutor]:
    with DaskExecutor(client) as executor:
        yield executor


both_kinds = pytest.mark.parametrize(
    "kind", [lambda fn: fn, lambda fn: limit(fn, wall_time=20)], ids=["unlimited", "limited"]
)
Kind = Callable[[Callable[..., Any]], Callable[..., Any]]


@both_kinds
def test_a_call_gives_its_value_and_its_usage(executor: DaskExecutor, kind: Kind) -> None:
    future = executor.submit(kind(pow), 2, 10)
    assert future.result() == 1024
    assert future.usage is not None
    assert future.usage.wall_time > 0


def test_a_breach_has_its_usage_too(executor: DaskExecutor) -> None:
    future = executor.submit(limit(time.sleep, wall_time=0.1), 60)
    assert type(future.exception()) is WallTimeBreach
    assert future.usage is not None
    assert future.usage.wall_time >= 0.1


@both_kinds
def test_lambdas_and_closures_work(executor: DaskExecutor, kind: Kind) -> None:
    base = 40
    assert executor.submit(kind(lambda number: base + number), 2).result() == 42


@both_kinds
def test_a_users_exception_keeps_its_type_and_its_traceback(
    executor: DaskExecutor, kind: Kind
) -> None:
    def fail() -> None:
        raise KeyError("the key", 3)

    error = executor.submit(kind(fail)).exception()
    assert type(error) is KeyError
    assert error.args == ("the key", 3)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in fail" in str(error.__cause__)
    if kind(fail) is fail:
        assert "run_in_place" not in str(error.__cause__)


@both_kinds
def test_what_led_to_an_exception_need_not_be_picklable(executor: DaskExecutor, kind: Kind) -> None:
    def fail() -> None:
        try:
            raise LookupError(threading.Lock())
        except LookupError as why:
            raise ExceptionGroup("both", [ValueError("one"), KeyError("two")]) from why

    error = executor.submit(kind(fail)).exception()
    assert isinstance(error, ExceptionGroup)
    assert [type(part) for part in error.exceptions] == [ValueError, KeyError]
    assert "LookupError: <unlocked" in str(error.__cause__)


def test_a_limited_call_has_no_dask_worker(executor: DaskExecutor) -> None:
    error = executor.submit(limit(get_worker, wall_time=20)).exception()
    assert type(error) is ValueError
    assert "No worker found" in str(error)


@both_kinds
def test_a_huge_exception_arrives_whole(executor: DaskExecutor, kind: Kind) -> None:
    def fail() -> None:
        raise ValueError("long" * 10_000)

    error = executor.submit(kind(fail)).exception()
    assert type(error) is ValueError
    assert len(str(error)) == 40_000


@both_kinds
def test_sys_exit_ends_the_call_and_not_the_worker(executor: DaskExecutor, kind: Kind) -> None:
    before = executor.client.run(os.getpid)
    error = executor.submit(kind(sys.exit), 3).exception()
    assert type(error) is ExitError
    assert error.exit_code == 3
    assert executor.client.run(os.getpid) == before


@both_kinds
def test_what_cannot_be_pickled_fails_alone(executor: DaskExecutor, kind: Kind) -> None:
    before = executor.submit(kind(abs), -1)
    argument = executor.submit(kind(abs), threading.Lock())
    result = executor.submit(kind(threading.Lock))
    after = executor.submit(kind(abs), -2)
    assert (before.result(), after.result()) == (1, 2)
    for future, name, part in [(argument, "abs", "arguments"), (result, "lock", "result")]:
        error = future.exception()
        assert type(error) is CallPicklingError
        assert error.part == part
        assert name in str(error)
        assert "lock" in str(error)


class Unreadable:
    """Can be pickled, and rebuilt only where it was made."""

    def __init__(self, home: int) -> None:
        if os.getpid() == home:
            raise RuntimeError("not in this process")
        self.home = home

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.home,)


def test_a_result_that_cannot_be_read_on_arrival_fails_alone(executor: DaskExecutor) -> None:
    unreadable = executor.submit(Unreadable, os.getpid())
    others = [executor.submit(abs, -n) for n in range(10)]
    assert [future.result() for future in others] == list(range(10))
    error = unreadable.exception()
    assert type(error) is CallPicklingError
    assert "not in this process" in str(error)
    assert unreadable.usage is not None


@both_kinds
def test_equal_calls_each_run(executor: DaskExecutor, kind: Kind, tmp_path: Path) -> None:
    def note(file: Path) -> None:
        with file.open("a") as lines:
            lines.write("ran\n")

    concurrent.futures.wait([executor.submit(kind(note), tmp_path / "notes") for _ in range(5)])
    assert (tmp_path / "notes").read_text() == "ran\n" * 5


@both_kinds
def test_dask_knows_a_call_by_the_name_of_its_function(executor: DaskExecutor, kind: Kind) -> None:
    def a_name_of_its_own(seconds: float) -> None:
        time.sleep(seconds)

    future = executor.submit(kind(a_name_of_its_own), 0.5)
    prefixes = executor.client.cluster.scheduler.task_prefixes
    until(lambda: "a_name_of_its_own" in prefixes)
    future.result()


class CountGraphs(SchedulerPlugin):
    name = "count-graphs"

    def __init__(self) -> None:
        self.tasks: list[int] = []

    def update_graph(self, scheduler: Scheduler, *, tasks: list[str], **_: Any) -> None:
        self.tasks.append(len(tasks))


def test_calls_of_one_tick_go_out_together(client: Client) -> None:
    counter = CountGraphs()
    client.cluster.scheduler.add_plugin(counter)
    functions = [limit(abs, wall_time=20), abs, limit(abs, memory="1 GiB")] * 10
    with DaskExecutor(client, batch=False) as executor:
        with nothing_sent(client):  # else it may take several ticks to submit them
            futures = [executor.submit(fn, n) for n, fn in enumerate(functions)]
        concurrent.futures.wait(futures)
    client.cluster.scheduler.remove_plugin(counter.name)
    assert sum(counter.tasks) == 30
    assert len(counter.tasks) < 30 / 3


def test_calls_wait_for_others_while_the_cluster_has_enough_to_do(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DaskExecutor(client, batch=False) as executor:
        batches = executor._sender.batches
        wait = limit(wait_for, wall_time=60)
        futures: list[Future[Any]] = [executor.submit(wait, tmp_path / "go") for _ in range(30)]
        until(lambda: len(batches) == 30)
        monkeypatch.setattr(sender, "_LONG_TICK_S", 1000)
        futures += [executor.submit(abs, -n) for n in range(5)]
        time.sleep(0.1)
        assert len(batches) == 30
        (tmp_path / "go").touch()
        assert [future.result(timeout=60) for future in futures] == [None] * 30 + list(range(5))


@both_kinds
def test_futures_of_the_client_are_dependencies(
    executor: DaskExecutor, client: Client, kind: Kind
) -> None:
    first, second = client.map(abs, [-1, -2])
    nested = {"first": [first], "rest": (second, 3)}
    assert executor.submit(
        kind(lambda given, last: (given, last)), nested, last=first
    ).result() == (
        {"first": [1], "rest": (2, 3)},
        1,
    )


@both_kinds
def test_coroutine_functions_run_to_their_end(executor: DaskExecutor, kind: Kind) -> None:
    async def doubled(number: int) -> int:
        await asyncio.sleep(0.01)
        return 2 * number

    assert executor.submit(kind(doubled), 4).result() == 8


def test_users_annotations_hold(executor: DaskExecutor, client: Client) -> None:
    for address, pid in client.run(os.getpid).items():
        with dask.annotate(workers=[address]):
            there = executor.submit(os.getpid)
            limited = executor.submit(limit(os.getppid, wall_time=20))
        elsewhere = executor.submit(abs, -1)
        assert there.result() == pid
        assert limited.result() in {child.pid for child in psutil.Process(pid).children(True)}
        assert elsewhere.result() == 1


def test_annotations_of_an_executor_win_over_those_around_a_call(client: Client) -> None:
    first, second = client.run(os.getpid).items()
    with (
        DaskExecutor(client, annotations={"workers": [first[0]]}) as executor,
        dask.annotate(workers=[second[0]], note="mine"),
    ):
        futures = [executor.submit(os.getpid) for _ in range(4)]
    assert {future.result() for future in futures} == {first[1]}


def test_an_annotation_is_not_passed_on_to_calls_that_go_out_with_it(
    executor: DaskExecutor, tmp_path: Path
) -> None:
    tasks = executor.client.cluster.scheduler.tasks
    before = set(tasks)
    with dask.annotate(note="mine"):
        annotated = executor.submit(wait_for, tmp_path / "go")
    other = executor.submit(limit(time.sleep, wall_time=60), 60)
    until(lambda: len(tasks.keys() - before) == 2)
    by_note = {
        bool(tasks[key].annotations.get("note")): tasks[key] for key in tasks.keys() - before
    }
    assert by_note[True].annotations == {"note": "mine", "executor": "default", "limits": {}}
    assert by_note[False].annotations == {"executor": "limits", "limits": {"wall_time": 60.0}}
    (tmp_path / "go").touch()
    other.cancel()
    concurrent.futures.wait([annotated])


def test_cancel_ends_a_running_call(executor: DaskExecutor, tmp_path: Path) -> None:
    future = executor.submit(limit(start_sleeping, wall_time=60), tmp_path / "pid")
    pid = written_pid(tmp_path / "pid")
    assert future.cancel()
    assert future.cancelled()
    until(lambda: not alive(pid))


def test_cancel_keeps_a_waiting_call_from_starting(executor: DaskExecutor, tmp_path: Path) -> None:
    with nothing_sent(executor.client):
        at_once = executor.submit(start_sleeping, tmp_path / "never")
        at_once.cancel()
    running = [executor.submit(limit(time.sleep, wall_time=60), 60) for _ in range(2)]
    until(lambda: len(executor.client.processing()) and all(executor.client.processing().values()))
    waiting = executor.submit(limit(start_sleeping, wall_time=60), tmp_path / "never")
    waiting.cancel()
    for future in running:
        future.cancel()
    assert executor.submit(abs, -1).result() == 1
    assert not (tmp_path / "never").exists()


def test_nothing_is_kept_of_what_is_done(executor: DaskExecutor) -> None:
    futures = [executor.submit(limit(abs, wall_time=20), -n) for n in range(20)]
    futures += [executor.submit(limit(time.sleep, wall_time=0.05), 60)]
    concurrent.futures.wait(futures)

    def nothing_is_left() -> bool:
        gc.collect()  # futures of the tests before it, in circles of references
        return not executor.client.cluster.scheduler.tasks

    until(nothing_is_left)
    assert not executor.client.futures


@pytest.mark.parametrize("how", ["refused", "of what failed"])
def test_nothing_is_kept_of_what_dask_fails(how: str, executor: DaskExecutor) -> None:
    client = executor.client
    if how == "refused":
        futures = [executor.submit(limit(abs, memory="900 TiB"), -1) for _ in range(5)]
    else:
        failed = client.submit(divmod, 1, 0)
        futures = [executor.submit(len, [failed]) for _ in range(5)]
        del failed
    calls = [weakref.ref(call) for call in submissions() if call.future in futures]
    kinds = {type(future.exception(timeout=30)) for future in futures}
    assert kinds == {LimitRefusedError if how == "refused" else ZeroDivisionError}
    del futures
    until(lambda: not client.futures)

    def all_are_gone() -> bool:
        gc.collect()  # an exception and what has raised it
        return not any(call() is not None for call in calls)

    until(all_are_gone)  # the client's thread may still hold the last one for a moment


def test_nothing_of_what_was_submitted_is_kept_by_a_future_that_has_failed(
    executor: DaskExecutor,
) -> None:
    future = executor.submit(limit(abs, memory="900 TiB"), -1)
    (call,) = [weakref.ref(call) for call in submissions() if call.future is future]
    assert type(future.exception(timeout=30)) is LimitRefusedError
    until(lambda: not executor.client.futures)

    def is_gone() -> bool:
        gc.collect()
        return call() is None

    until(is_gone)


def submissions() -> list[Submission]:
    return [one for one in gc.get_objects() if type(one) is Submission]


def test_many_calls_lose_nothing(executor: DaskExecutor) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        futures = list(threads.map(lambda n: (n, executor.submit(abs, -n)), range(300)))
    assert all(future.result() == n for n, future in futures)


def test_large_calls_of_one_tick_raise_no_warning(executor: DaskExecutor) -> None:
    futures = [executor.submit(len, bytes(3 * 2**20)) for _ in range(6)]
    assert [future.result() for future in futures] == [3 * 2**20] * 6


def test_an_error_that_does_not_know_its_call_is_told(
    executor: DaskExecutor, client: Client
) -> None:
    def refuse() -> None:
        raise LimitRefusedError("too much", limit="memory", asked=2, most=1)

    error = executor.submit(abs, client.submit(refuse)).exception()
    assert type(error) is LimitRefusedError
    assert (error.call, error.limit, error.asked, error.most) == ("abs", "memory", 2, 1)


# -- when things end ---------------------------------------------------------------------


def test_a_worker_that_keeps_dying_is_an_exception() -> None:
    def kill_the_worker() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        future = DaskExecutor(client).submit(kill_the_worker)
        assert isinstance(future.exception(timeout=30), WorkerLostError)


def test_a_limited_call_runs_again_where_its_worker_was_killed(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        executor = DaskExecutor(client)
        (worker,) = client.run(os.getpid).values()
        future = executor.submit(limit(count_run, wall_time=600), tmp_path / "runs", 600)
        until((tmp_path / "runs").exists)
        os.kill(worker, signal.SIGKILL)
        assert future.result(timeout=60) == 2


@pytest.mark.parametrize("what", ["client", "cluster"])
def test_calls_in_flight_fail_when_their_way_is_closed(what: str) -> None:
    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        executor = DaskExecutor(client)
        calls = calls_in_flight(executor)
        {"client": client, "cluster": cluster}[what].close()
        all_are_lost(calls)
        with pytest.raises(ClusterLostError, match="abs"):
            executor.submit(abs, -1)


def test_calls_in_flight_fail_when_the_scheduler_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = start_dask("scheduler", "--port", "0", *options)
    worker = start_dask("worker", "--no-nanny", "--nthreads", "1", *options)
    until(file.exists)
    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(1)
        calls = calls_in_flight(DaskExecutor(client))
        scheduler.kill()
        all_are_lost(calls)
        worker.kill()
    assert (scheduler.wait(), worker.wait()) == (-signal.SIGKILL, -signal.SIGKILL)


def start_dask(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "dask", *arguments], stderr=subprocess.DEVNULL)


def calls_in_flight(executor: DaskExecutor) -> list[Future[Any]]:
    running = executor.submit(limit(time.sleep, wall_time=60), 60)
    until(lambda: any(executor.client.processing().values()))
    return [running, *(executor.submit(abs, -1) for _ in range(3))]


def all_are_lost(calls: list[Future[Any]]) -> None:
    for call, name in zip(calls, ["sleep", "abs", "abs", "abs"], strict=True):
        error = call.exception(timeout=20)  # Dask takes 30 s to give up
        assert type(error) is ClusterLostError
        assert error.call == name
        assert name in str(error)


@pytest.mark.parametrize("loop", ["of its own", "of the cluster"])
def test_calls_submitted_while_the_client_closes_do_not_hang(loop: str) -> None:
    with LocalCluster(n_workers=1, processes=False, **SETTINGS) as cluster:
        for delay in [0, 0.0005, 0.001, 0.002, 0.005] * 4:
            client = Client(cluster if loop == "of the cluster" else cluster.scheduler_address)
            executor = DaskExecutor(client)
            closing = threading.Thread(target=client.close)
            futures = [executor.submit(abs, -1) for _ in range(5)]
            time.sleep(delay)
            closing.start()
            try:
                while True:
                    futures.append(executor.submit(abs, -1))
            except BrokenExecutor:
                closing.join()
            assert not concurrent.futures.wait(futures, timeout=60).not_done


def test_shutdown_waits_and_leaves_the_users_client_open(client: Client) -> None:
    executor = DaskExecutor(client)
    future = executor.submit(time.sleep, 0.1)
    executor.shutdown()
    assert future.done()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(abs, -1)
    assert client.submit(abs, -1).result() == 1


def test_shutdown_can_cancel(client: Client, tmp_path: Path) -> None:
    executor = DaskExecutor(client)
    future = executor.submit(limit(start_sleeping, wall_time=60), tmp_path / "pid")
    pid = written_pid(tmp_path / "pid")
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()
    until(lambda: not alive(pid))


@pytest.mark.parametrize("wait", [True, False])
def test_what_was_made_for_an_executor_ends_with_it(wait: bool) -> None:
    before = children()
    executor = DaskExecutor.connect(n_workers=2)
    future = executor.submit(limit(time.sleep, wall_time=20), 0.1)
    executor.shutdown(wait)
    assert future.result() is None
    until(lambda: executor.client.status == "closed")
    until(lambda: children() <= before)


QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}
"""On a busy machine a worker of Dask logs that it has lost its scheduler."""
INTERRUPTED = """
import os, signal, sys, threading, time
from dask_limits.executors.dask.executor import DaskExecutor

def interrupt():  # as a terminal does, to all of its processes
    os.killpg(0, signal.SIGINT)

def interrupt_in(name):
    def calls():
        for frame in sys._current_frames().values():
            while frame is not None:
                yield frame.f_code.co_name
                frame = frame.f_back
    while name not in calls():
        time.sleep(0.001)
    interrupt()

if __name__ == "__main__":
    at = sys.argv[1]
    try:
        if at[0].isdigit():
            threading.Timer(float(at), interrupt).start()
        else:
            threading.Thread(target=interrupt_in, args=[at]).start()
        with DaskExecutor.connect(n_workers=2):
            time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("at", ["0.0", "0.2", "0.5", "0.9", "register_plugin"])
def test_ctrl_c_while_a_cluster_starts_leaves_nothing(at: str, tmp_path: Path) -> None:
    """At some moment, in seconds, or while a function of Dask runs."""
    (tmp_path / "script.py").write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), at],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), **QUIET},
        start_new_session=True,
    ) as script:
        try:
            said, _ = script.communicate(timeout=200)
            until(lambda: not in_session(script.pid))
        finally:
            for process in in_session(script.pid):
                process.kill()
    assert said == "interrupted\n"
    assert script.returncode == 0


KILLED = """
import multiprocessing, os, signal, time
from dask_limits.executors.dask.executor import DaskExecutor

if __name__ == "__main__":
    with DaskExecutor.connect(n_workers=2) as executor:
        executor.submit(abs, -1).result()
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[600])
        child.start()  # it has all that this process has open
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_driver_that_is_killed_though_a_child_of_it_lives_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "script.py").write_text(KILLED)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as script:
        assert script.stdout is not None
        child = int(script.stdout.readline())
        script.wait()
        try:
            until(lambda: child in {process.pid for process in in_session(script.pid)})
            until(lambda: not others_than(child, script.pid))
        finally:
            for process in in_session(script.pid):
                process.kill()


def others_than(child: int, session: int) -> list[psutil.Process]:
    """Those of a session but for one, and what multiprocessing keeps for as long as that lives."""
    found = []
    for process in in_session(session):
        with suppress(psutil.NoSuchProcess):
            if process.pid != child and "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
    return found


def in_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def test_workers_of_a_cluster_that_was_started_do_not_keep_ctrl_c_blocked() -> None:
    def blocked() -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    with DaskExecutor.connect(n_workers=1) as executor:
        assert executor.submit(blocked).result() is False
        assert executor.submit(limit(blocked, wall_time=20)).result() is False
    assert not blocked()


@pytest.mark.parametrize("what", ["client", "cluster", "address"])
def test_what_was_given_stays_open(what: str, client: Client) -> None:
    given = {"client": client, "cluster": client.cluster, "address": client.scheduler.address}
    with DaskExecutor.connect(given[what]) as executor:
        assert executor.submit(abs, -1).result() == 1
    assert client.submit(abs, -2).result() == 2
    assert executor.client.status == ("running" if what == "client" else "closed")


def test_a_worker_without_dask_limits_is_named_and_nothing_is_left_of_the_attempt(
    tmp_path: Path,
) -> None:
    # A module in the directory that the worker starts in hides the package from it.
    (tmp_path / "dask_limits.py").write_text("")
    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        (here,) = cluster.scheduler.workers
        command = [sys.executable, "-m", "dask", "worker", "--no-nanny", "--no-dashboard"]
        worker = subprocess.Popen(
            [*command, "--name", "bare", cluster.scheduler_address],
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        try:
            client.wait_for_workers(2)
            (there,) = set(cluster.scheduler.workers) - {here}
            for _ in range(2):
                with pytest.raises(RuntimeError, match="cannot use dask_limits") as raised:
                    DaskExecutor(client)
                text = str(raised.value)
                assert f"worker bare at {there} failed with" in text
                assert "No module named 'dask_limits." in text
                assert "Install dask_limits" in text
                assert here not in text
        finally:
            worker.kill()
            worker.wait()
        until(lambda: list(cluster.scheduler.workers) == [here])
        with DaskExecutor(client) as executor:
            assert executor.submit(limit(abs, wall_time=20), -1).result() == 1


def test_a_closed_client_is_named(client: Client) -> None:
    closed = Client(client.scheduler.address, set_as_default=False)
    closed.close()
    with pytest.raises(RuntimeError, match="client is closed: make a new one"):
        DaskExecutor(closed)


def test_an_asynchronous_client_is_a_type_error(client: Client) -> None:
    async def try_it() -> None:
        async with Client(client.scheduler.address, asynchronous=True) as own:
            with pytest.raises(TypeError, match="asynchronous"):
                DaskExecutor(own)

    asyncio.run(try_it())
