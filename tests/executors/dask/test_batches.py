"""Short calls that go to a worker together, and what becomes of each."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import re
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from clusters import SETTINGS, nothing_is_left_behind, nothing_sent  # noqa: F401
from distributed import Client, LocalCluster, SchedulerPlugin
from numbered import n_runs, numbered
from processes import alive, until, wait_for, written_pid

from dask_limits import Limiter, PynisherPlugin, Retry, Scheduler, limit
from dask_limits.dask.batch import LEFT
from dask_limits.exceptions import CrashError, WallTimeBreach, WorkerLostError
from dask_limits.executors.dask import batching
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.future import Future

LIMITS: dict[str, Any] = {"wall_time": 40, "memory": "1 GiB"}


class Sizes(SchedulerPlugin):
    """How many calls tasks are, by their sizes."""

    name = "sizes"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def update_graph(self, scheduler: Any, *, tasks: list[str], **_: Any) -> None:
        for key in tasks:
            found = re.match(r"\w+ x (\d+)-", key)
            self.sizes.append(int(found[1]) if found else 1)


@pytest.fixture(autouse=True)
def all_calls_count_as_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a busy machine, where the first one of a worker may take seconds."""
    monkeypatch.setattr(batching, "_BATCH_S", 1000)
    monkeypatch.setattr(batching, "_HOLD_UNKNOWN_S", 1000)


@contextmanager
def one_worker() -> Iterator[tuple[DaskExecutor, Sizes]]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
        DaskExecutor(client) as executor,
    ):
        names = Sizes()
        cluster.scheduler.add_plugin(names)
        yield executor, names


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[DaskExecutor, Sizes]]:
    with one_worker() as both:
        yield both


@pytest.fixture
def executor(shared: tuple[DaskExecutor, Sizes]) -> DaskExecutor:
    return shared[0]


@pytest.fixture
def names(shared: tuple[DaskExecutor, Sizes]) -> Sizes:
    shared[1].sizes.clear()
    return shared[1]


def learn(executor: DaskExecutor, folder: Path, **limits: Any) -> Any:
    """Run one call, from which it is known how long they take."""
    call = limit(numbered, **LIMITS | limits)
    (folder / "first").mkdir()
    executor.submit(call, folder / "first", 0).result(timeout=60)
    return call


def submit_together(
    executor: DaskExecutor, folder: Path, does: dict[int, str], n: int = 8, **limits: Any
) -> list[Future[int]]:
    """Submit calls of which several go out together."""
    call = learn(executor, folder, **limits)
    with nothing_sent(executor.client):
        return [executor.submit(call, folder, i, does.get(i, "")) for i in range(n)]


def results(futures: list[Future[int]]) -> list[Any]:
    left = concurrent.futures.wait(futures, timeout=60).not_done
    assert not left
    return [type(f.exception()) if f.exception() else f.result() for f in futures]


def test_calls_go_together_under_a_name_with_their_number(
    executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    futures = submit_together(executor, tmp_path, {})
    assert results(futures) == list(range(8))
    assert sum(names.sizes) >= 9
    assert len(names.sizes) < 9
    assert max(names.sizes) > 1
    prefixes = executor.client.cluster.scheduler.task_prefixes
    assert {"numbered", f"numbered x {max(names.sizes)}"} <= set(prefixes)
    assert all(future.usage is not None and future.usage.wall_time > 0 for future in futures)
    assert [n_runs(tmp_path, i) for i in range(8)] == [1] * 8


@pytest.mark.parametrize(
    ("does", "kind"), [("sleep", WallTimeBreach), ("crash", CrashError), ("raise", LookupError)]
)
def test_one_that_goes_wrong_costs_no_other(
    does: str, kind: type, executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    futures = submit_together(executor, tmp_path, {3: does}, wall_time=5)
    assert results(futures) == [0, 1, 2, kind, 4, 5, 6, 7]
    assert max(names.sizes) > 1
    assert [n_runs(tmp_path, i) for i in range(8)] == [1] * 8


def test_each_has_its_own_output(executor: DaskExecutor, names: Sizes, tmp_path: Path) -> None:
    does = dict.fromkeys(range(8), "print")
    futures = submit_together(executor, tmp_path, does, capture_output=True)
    assert results(futures) == list(range(8))
    assert max(names.sizes) > 1
    said = [future.usage.stdout for future in futures if future.usage is not None]
    assert said == [f"this is {i}\n" for i in range(8)]


def test_what_has_ended_is_told_while_a_call_of_the_batch_takes_long(
    executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    futures = submit_together(executor, tmp_path, {2: "wait"})
    assert results(futures[:2]) == [0, 1]
    assert not futures[2].done()
    assert max(names.sizes) > 1
    (tmp_path / "go").touch()
    assert results(futures) == list(range(8))
    assert [n_runs(tmp_path, i) for i in range(8)] == [1] * 8


def test_what_a_long_call_holds_up_runs_elsewhere(tmp_path: Path) -> None:
    with one_worker() as (executor, names):
        futures = submit_together(executor, tmp_path, {0: "wait"})
        until(lambda: n_runs(tmp_path, 0))
        executor.client.cluster.scale(2)
        assert results(futures[1:]) == list(range(1, 8))
        assert not futures[0].done()
        assert max(names.sizes) > 1
        (tmp_path / "go").touch()
        assert results(futures) == list(range(8))


# -- cancelling --------------------------------------------------------------------------


def left_on_scheduler(dask_scheduler: Any) -> list[list[int]]:
    return [list(task.annotations.get(LEFT, ())) for task in dask_scheduler.tasks.values()]


def left_on_worker(dask_worker: Any) -> list[list[int]]:
    return [list(task.annotations.get(LEFT, ())) for task in dask_worker.state.tasks.values()]


@pytest.mark.parametrize("where", ["scheduler", "worker"])
def test_one_that_is_cancelled_while_its_batch_waits_never_runs(
    where: str, executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    client, gate = executor.client, tmp_path / "gate"
    call = learn(executor, tmp_path)
    n_blockers = 1 if where == "worker" else 3
    blockers = [executor.submit(limit(wait_for, wall_time=60), gate) for _ in range(n_blockers)]
    until(lambda: any(client.processing().values()))
    with nothing_sent(client):
        futures = [executor.submit(call, tmp_path, i) for i in range(8)]
    until(lambda: max(names.sizes, default=0) > 2)

    def left() -> set[int]:
        there = [client.run_on_scheduler(left_on_scheduler), *client.run(left_on_worker).values()]
        return {number for tasks in there for numbers in tasks for number in numbers}

    until(lambda: {3, 4} <= left())  # of the first six
    assert futures[3].cancel()
    assert futures[4].cancel()
    until(lambda: not {3, 4} & left())
    gate.touch()
    others = [futures[i] for i in (0, 1, 2, 5, 6, 7)]
    assert results([*blockers, *others]) == [None] * n_blockers + [0, 1, 2, 5, 6, 7]
    assert (n_runs(tmp_path, 3), n_runs(tmp_path, 4)) == (0, 0)


def test_one_that_is_cancelled_while_it_runs_ends_and_the_others_go_on(
    executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    futures = submit_together(executor, tmp_path, {0: "sleep"})
    pid = written_pid(tmp_path / "0")
    assert max(names.sizes) > 1
    assert futures[0].cancel()
    until(lambda: not alive(pid))
    assert results(futures[1:]) == list(range(1, 8))
    assert [n_runs(tmp_path, i) for i in range(8)] == [1] * 8


@pytest.mark.parametrize("delay", [0.001, 0.002, 0.003, 0.004])
def test_one_that_is_cancelled_on_its_way_ends(
    delay: float, executor: DaskExecutor, tmp_path: Path
) -> None:
    call = learn(executor, tmp_path, wall_time=600)
    futures = [executor.submit(call, tmp_path, i, "sleep" if i == 5 else "") for i in range(8)]
    time.sleep(delay)
    assert futures[5].cancel()
    del futures[5]
    assert results(futures) == [0, 1, 2, 3, 4, 6, 7]


def test_some_that_are_cancelled_after_others_end(
    executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    futures = submit_together(executor, tmp_path, {0: "sleep", 2: "sleep"}, wall_time=600)
    pid = written_pid(tmp_path / "0")
    assert max(names.sizes) > 2
    for number in (1, 0, 2):
        assert futures[number].cancel()
        time.sleep(0.05)
    until(lambda: not alive(pid))
    assert results(futures[3:]) == list(range(3, 8))
    assert executor.client.nthreads()


def test_errors_name_their_own_function(executor: DaskExecutor, tmp_path: Path) -> None:
    class Napping:
        def __init__(self, name: str) -> None:
            self.__name__ = name

        def __call__(self) -> None:
            time.sleep(60)

    calls = [limit(Napping(name), wall_time=0.2) for name in ("alpha", "beta")]
    futures = [executor.submit(call) for call in calls * 3]
    said = [str(future.exception(timeout=60)).split("(")[0] for future in futures]
    assert said == ["alpha", "beta"] * 3


def test_when_all_are_cancelled_nothing_runs_on(
    executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    futures = submit_together(executor, tmp_path, {0: "sleep"})
    pid = written_pid(tmp_path / "0")
    assert all(future.cancel() for future in futures)
    until(lambda: not alive(pid))
    assert executor.submit(limit(abs, wall_time=20), -1).result(timeout=30) == 1

    def nothing_is_left() -> bool:
        gc.collect()  # futures of the tests before it, in circles of references
        return not executor.client.cluster.scheduler.tasks

    until(nothing_is_left)


# -- lost workers ------------------------------------------------------------------------


class Told:
    """A run of some calls, and what was told of each."""

    def __init__(self, client: Client, folder: Path, does: dict[int, str], n: int = 8) -> None:
        scheduler = Scheduler(client)
        self.task = scheduler.task(numbered, plugins=[PynisherPlugin(walltime_limit=40)])
        self.futures: list[Any] = []
        self.told: list[tuple[str, Any]] = []
        self.task.on_result(lambda future, _: self.told.append(("result", future)))
        self.task.on_exception(lambda future, _: self.told.append(("exception", future)))
        self.task.on_rerun(lambda future, *_: self.told.append(("rerun", future)))
        (folder / "first").mkdir()
        first = []
        scheduler.on_start(lambda: first.append(self.task.submit(folder / "first", 0)))

        @self.task.on_result
        def submit(future: Any, _: Any) -> None:
            if future is first[0]:
                with nothing_sent(client):
                    self.futures += [self.task.submit(folder, i, does.get(i, "")) for i in range(n)]

        self.scheduler, self._client, self._folder = scheduler, client, folder

    def run_and_kill_when(self, is_time: Callable[[], bool]) -> None:
        """Run, have the one worker killed when call 2 runs, and let that end when it runs again."""

        def kill() -> None:
            if not (is_time() and n_runs(self._folder, 2)):
                self.scheduler.call_later(0.05, kill)
                return
            (pid,) = self._client.run(os.getpid).values()
            os.kill(pid, signal.SIGKILL)
            until(lambda: n_runs(self._folder, 2) == 2)
            (self._folder / "go").touch()

        self.scheduler.on_start(lambda: self.scheduler.call_later(0.05, kill))
        self.scheduler.run(timeout=50)

    def of(self, number: int) -> list[str]:
        return [what for what, future in self.told if future is self.futures[number]]


def test_a_worker_that_is_killed_costs_only_the_call_that_ran(tmp_path: Path) -> None:
    with one_worker() as (executor, names):
        told = Told(executor.client, tmp_path, {2: "wait"})
        told.run_and_kill_when(lambda: len(told.futures) == 8 and told.futures[1].done())
        assert max(names.sizes) > 1
        assert [n_runs(tmp_path, i) for i in range(8)] == [1, 1, 2, 1, 1, 1, 1, 1]
        assert [told.of(i) for i in range(8) if i != 2] == [["result"]] * 7
        assert told.of(2) == ["rerun", "result"]
        assert [future.attempts for future in told.futures] == [1, 1, 2, 1, 1, 1, 1, 1]


def report_late() -> None:
    """Have this worker say nothing of a batch but which call has begun last."""
    from dask_limits.dask.worker import executor

    executor._REPORT_AFTER_S = 60  # type: ignore[misc]


def last_begun(dask_scheduler: Any) -> int:
    """The highest number of a call of a batch that has begun, as far as this scheduler knows."""
    losses = dask_scheduler.plugins["dask-limits-scheduler"]._losses
    return max(losses._begun.values(), default=-1)


def test_only_calls_that_have_begun_are_told_that_they_run_again(tmp_path: Path) -> None:
    with one_worker() as (executor, names):
        client = executor.client
        client.run(report_late)
        told = Told(client, tmp_path, {2: "wait"})
        told.run_and_kill_when(lambda: client.run_on_scheduler(last_begun) >= 2)
        assert max(names.sizes) > 3
        assert [told.of(i) for i in range(3)] == [["rerun", "result"]] * 3
        assert [told.of(i) for i in range(3, 8)] == [["result"]] * 5
        assert [future.attempts for future in told.futures] == [2] * 3 + [1] * 5
        assert [n_runs(tmp_path, i) for i in range(8)] == [2] * 3 + [1] * 5


def test_one_that_is_left_of_a_batch_and_has_not_begun_is_not_blamed(tmp_path: Path) -> None:
    none_forgiven = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with none_forgiven, one_worker() as (executor, names):
        client = executor.client
        (pid,) = client.run(os.getpid).values()
        client.run(report_late)
        futures = submit_together(executor, tmp_path, {0: "sleep"})
        until(lambda: n_runs(tmp_path, 0))
        os.kill(pid, signal.SIGSTOP)
        try:
            size = max(names.sizes)
            assert size > 2
            for future in futures[: size - 1]:
                assert future.cancel()
            until(lambda: [size - 1] in client.run_on_scheduler(left_on_scheduler))
        finally:  # else the executor would wait for its calls
            os.kill(pid, signal.SIGKILL)
        assert results(futures[size - 1 :]) == list(range(size - 1, 8))
        assert n_runs(tmp_path, 0) == 1
        assert [n_runs(tmp_path, i) for i in range(size - 1, 8)] == [1] * (9 - size)


def test_what_was_told_does_not_run_again_when_its_worker_is_killed(tmp_path: Path) -> None:
    with one_worker() as (executor, _):
        (pid,) = executor.client.run(os.getpid).values()
        futures = submit_together(executor, tmp_path, {})
        assert results(futures) == list(range(8))
        os.kill(pid, signal.SIGKILL)
        assert executor.submit(limit(abs, wall_time=60), -1).result(timeout=60) == 1
        until(lambda: not executor.client.futures)
        assert [n_runs(tmp_path, i) for i in range(8)] == [1] * 8


def test_a_call_that_kills_its_workers_fails_alone(tmp_path: Path) -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        with one_worker() as (executor, names):
            told = Told(executor.client, tmp_path, {2: "kill the worker"})
            told.scheduler.run(timeout=50, on_exception="continue")
        assert max(names.sizes) > 1
        assert [told.of(i)[-1:] for i in range(8) if i != 2] == [["result"]] * 7
        assert [told.of(i).count("result") for i in range(8) if i != 2] == [1] * 7
        assert told.of(2)[-1] == "exception"
        error = told.futures[2].exception()
        assert isinstance(error, WorkerLostError)
        assert (error.call, error.tries) == ("numbered", 2)
        assert n_runs(tmp_path, 2) <= 3


# -- what else there is of calls -----------------------------------------------------------


def test_one_that_fails_is_retried(tmp_path: Path) -> None:
    with one_worker() as (executor, names):
        scheduler = Scheduler(executor)
        plugins = [PynisherPlugin(walltime_limit=40), Retry(max_retries=1, on=LookupError)]
        task = scheduler.task(numbered, plugins=plugins)
        futures: list[Any] = []

        @scheduler.on_start(repeat=2)
        def submit() -> None:
            n = len(futures)
            with nothing_sent(executor.client):
                futures.extend(task.submit(tmp_path, i, "fail at first") for i in range(n, n + 8))

        scheduler.run(timeout=50)
        assert [future.result() for future in futures] == list(range(16))
        assert [future.attempts for future in futures] == [2] * 16
        assert max(names.sizes) > 1


def test_a_limiter_limits_a_batch_too(tmp_path: Path) -> None:
    with one_worker() as (executor, names):
        scheduler = Scheduler(executor)
        task = scheduler.task(
            numbered,
            plugins=[
                PynisherPlugin(walltime_limit=40),
                Limiter(max_concurrent=3, when_full="wait"),
            ],
        )
        scheduler.on_start(lambda: [task.submit(tmp_path, i) for i in range(20)])
        most = 0

        @task.on_result
        def count(*_: object) -> None:
            nonlocal most
            most = max(most, sum(len(b.left) for b in executor._sender.batches.values()))

        scheduler.run(timeout=50)
        assert task.event_counts["on-result"] == 20
        assert most <= 3
        assert max(names.sizes) <= 3


@pytest.mark.parametrize("how", ["batch=False", "isolation", "coroutine", "no limits"])
def test_calls_go_one_by_one(how: str, executor: DaskExecutor, names: Sizes) -> None:
    if how == "batch=False":
        with DaskExecutor(executor.client, batch=False) as other:
            go_one_by_one(other, names, limit(abs, wall_time=20))
    else:
        fns = {
            "isolation": limit(abs, wall_time=20, isolation="thread"),
            "coroutine": limit(absolute, wall_time=20),
            "no limits": abs,
        }
        go_one_by_one(executor, names, fns[how])


async def absolute(number: int) -> int:
    return abs(number)


def go_one_by_one(executor: DaskExecutor, names: Sizes, fn: Any) -> None:
    executor.submit(fn, 0).result(timeout=60)
    with nothing_sent(executor.client):
        futures = [executor.submit(fn, -i) for i in range(8)]
    assert results(futures) == list(range(8))
    assert names.sizes == [1] * 9


def test_a_done_callback_can_wait_for_a_call_of_the_same_batch(
    executor: DaskExecutor, names: Sizes, tmp_path: Path
) -> None:
    futures = submit_together(executor, tmp_path, {})
    found: list[int] = []
    futures[0].add_done_callback(lambda _: found.append(futures[1].result(timeout=30)))
    assert results(futures) == list(range(8))
    until(lambda: found == [1])
    assert max(names.sizes) > 1


def test_an_executor_that_nobody_has_any_more_is_released(executor: DaskExecutor) -> None:
    other = DaskExecutor(executor.client)
    assert other.submit(limit(abs, wall_time=20), -1).result(timeout=30) == 1
    gone = weakref.ref(other._sender)
    del other

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    until(is_gone)
