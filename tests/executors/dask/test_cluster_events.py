"""What an executor tells of its cluster, from what is said on the Dask scheduler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from processes import until, wait_for

from dask_limits import Retry, Scheduler, Task, limit
from dask_limits.dask.topic import TOPIC
from dask_limits.exceptions import WorkerLostError
from dask_limits.executors.cluster import WorkerInfo
from dask_limits.executors.dask.executor import DaskExecutor


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    dashboard = SETTINGS["dashboard_address"]
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=dashboard) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def said(client: Client, op: str, name: str, **about: Any) -> None:
    """Have this said on the scheduler, of a worker that nobody else knows."""
    event = {"op": op, "worker": name, "address": f"tcp://{name}:1", **about}
    client.cluster.loop.add_callback(client.cluster.scheduler.log_event, TOPIC, event)


class Log:
    """What a scheduler emits of workers: those of one test, which has names of its own."""

    def __init__(self, scheduler: Scheduler, *names: str) -> None:
        self.lines: list[str] = []
        self._names = names
        scheduler.on_worker_added(lambda worker: self.add("+", worker))
        scheduler.on_worker_removed(lambda worker, reason: self.add("-", worker, reason))
        scheduler.on_start(lambda: self.lines.append("start"))

    def add(self, sign: str, worker: WorkerInfo, *reason: str) -> None:
        if worker.name in self._names:
            self.lines.append(" ".join([sign, worker.name, *filter(None, reason)]))


def stop_at(scheduler: Scheduler, name: str) -> None:
    @scheduler.on_worker_added
    def stop(worker: WorkerInfo) -> None:
        if worker.name == name:
            scheduler.stop()


def test_workers_that_are_there_are_told_before_the_start_once_each(client: Client) -> None:
    said(client, "worker-added", "here", memory=2**30, cores=2, job="17", ends_in=60.0)
    said(client, "worker-added", "gone")
    said(client, "worker-removed", "gone", reason="scaled down")
    scheduler = Scheduler(client)
    log = Log(scheduler, "here", "gone")
    infos: list[WorkerInfo] = []
    scheduler.on_worker_added(infos.append)
    for _ in range(3):
        scheduler.run()
    assert log.lines == ["+ here", "start"] * 3
    here = WorkerInfo("here", "tcp://here:1", "17", memory=2**30, cores=2, ends_in=60.0)
    assert here in infos


def test_workers_that_come_and_go_are_told_as_it_happens(client: Client) -> None:
    scheduler = Scheduler(client)
    log = Log(scheduler, "one", "two")

    @scheduler.on_start
    def change() -> None:
        said(client, "worker-added", "one")
        said(client, "worker-added", "one")
        said(client, "worker-draining", "one", reason="its job ends in 60 s")
        said(client, "worker-removed", "two", reason="was never there")
        said(client, "worker-removed", "one", reason="closed")
        said(client, "worker-added", "two")

    stop_at(scheduler, "two")
    scheduler.run(end_on_empty=False, timeout=60)
    assert log.lines == ["start", "+ one", "- one its job ends in 60 s", "+ two"]


def test_two_schedulers_on_one_client_are_both_told(client: Client) -> None:
    schedulers = [Scheduler(client), Scheduler(client)]
    logs = [Log(scheduler, "third", "fourth") for scheduler in schedulers]
    runs = [
        threading.Thread(target=scheduler.run, kwargs={"end_on_empty": False, "timeout": 20})
        for scheduler in schedulers
    ]
    for run in runs:
        run.start()
    until(lambda: all(log.lines == ["start"] for log in logs))
    said(client, "worker-added", "third")
    until(lambda: all(log.lines == ["start", "+ third"] for log in logs))
    schedulers[0].stop()
    runs[0].join()
    said(client, "worker-added", "fourth")
    until(lambda: logs[1].lines[-1] == "+ fourth")
    schedulers[1].stop()
    runs[1].join()
    assert logs[0].lines[-1] == "+ third"


def test_nothing_is_subscribed_to_after_a_run(client: Client) -> None:
    Scheduler(client).run()
    topics = client.cluster.scheduler._broker._topics
    until(lambda: client.id not in topics[TOPIC].subscribers)


def test_what_makes_no_sense_is_passed_over(client: Client) -> None:
    scheduler = Scheduler(client)
    log = Log(scheduler, "last", "odd", "\x1b[31mred")
    nonsense: list[Any] = [
        None,
        3,
        ["worker-added"],
        {"op": ["worker-added"]},
        {"op": "worker-added"},
        {"op": "worker-added", "address": ["a list"]},
        {"op": "worker-removed", "address": None, "reason": {}},
        {"op": "worker-draining", "address": {}},
        {"op": "rerun"},
        {"op": "rerun", "key": ["a", "list"], "tries": "many"},
        {"op": "rerun", "key": "of-someone-else", "worker": "w", "tries": 1},
        {"op": "worker-added", "address": "tcp://odd:1", "worker": "odd", "memory": "much"},
        {"op": "worker-removed", "address": "tcp://odd:1", "reason": ["a", "list"]},
        {"op": "worker-added", "address": "tcp://odd:1", "worker": "odd", "cores": float("nan")},
    ]

    @scheduler.on_start
    def talk() -> None:
        for event in nonsense:
            client.log_event(TOPIC, event)
        said(client, "worker-added", "last")

    stop_at(scheduler, "last")
    assert scheduler.run(end_on_empty=False, timeout=60).code == "stopped"
    assert log.lines == ["start", "+ odd", "- odd", "+ odd", "+ last"]


def test_what_workers_call_themselves_cannot_control_a_terminal(client: Client) -> None:
    said(client, "worker-added", "\x1b[31mred" + 1000 * "!")
    scheduler = Scheduler(client)
    names: list[str] = []
    scheduler.on_worker_added(lambda worker: names.append(worker.name))
    scheduler.run()
    (red,) = [name for name in names if "red" in name]
    assert red.isprintable()
    assert len(red) == 300


def lose(client: Client, name: str, tries: int = 1) -> None:
    """Say that the worker of a call was lost, as soon as it runs."""
    tasks = client.cluster.scheduler.tasks

    def running() -> list[str]:
        return [key for key, task in list(tasks.items()) if name in key and task.processing_on]

    until(running)
    (key,) = running()
    said(client, "rerun", "w", key=key, job="17", cause="TIMEOUT", tries=tries)


@pytest.mark.parametrize("retry", [False, True], ids=["alone", "with-retry"])
def test_a_rerun_is_told_and_counted(client: Client, retry: bool, tmp_path: Path) -> None:
    scheduler = Scheduler(client)
    task: Task[[Path], object] = scheduler.task(
        wait_for, plugins=[Retry(max_retries=1)] if retry else []
    )
    told: list[tuple[str, Any, Any, int]] = []

    def note(who: str, *about: Any) -> None:
        told.append((who, *about))
        if len(told) == 2:  # it runs until both are told
            (tmp_path / "go").touch()

    scheduler.on_future_rerun(lambda *about: note("scheduler", *about))
    task.on_rerun(lambda *about: note("task", *about))
    scheduler.on_start(lambda: task.submit(tmp_path / "go"))
    scheduler.on_start(lambda: scheduler.call_later(0, lose, client, "wait_for"))
    futures: list[Any] = []
    task.on_done(futures.append)
    assert scheduler.run(timeout=60).code == "exhausted"
    (future,) = futures
    assert [(who, attempt) for who, _, _, attempt in told] == [("scheduler", 2), ("task", 2)]
    assert {about[1] for about in told} == {future}
    (error,) = future.earlier
    assert future.attempts == 2
    assert type(error) is WorkerLostError
    assert (error.call, error.worker, error.job) == ("wait_for", "w", "17")
    assert (error.cause, error.tries) == ("TIMEOUT", 1)
    assert "worker w of job 17, which was lost: TIMEOUT. It runs again." in str(error)


def test_an_error_of_a_callback_ends_the_run(client: Client) -> None:
    said(client, "worker-added", "one more")
    scheduler = Scheduler(client)

    @scheduler.on_worker_added
    def fail(worker: WorkerInfo) -> None:
        raise LookupError(worker.name)

    scheduler.on_start(lambda: pytest.fail("it started"))
    with pytest.raises(LookupError):
        scheduler.run()
    assert scheduler.run(on_exception="end").code == "exception"


def test_the_end_of_a_watch_ends_it(client: Client) -> None:
    executor = DaskExecutor(client)
    events: list[object] = []
    executor.watch(events.append)
    until(lambda: client.id in client.cluster.scheduler._broker._topics[TOPIC].subscribers)
    executor.watch(None)
    before = len(events)
    said(client, "worker-added", "unheard")
    assert executor.submit(limit(abs, wall_time=20), -1).result() == 1
    assert len(events) == before
