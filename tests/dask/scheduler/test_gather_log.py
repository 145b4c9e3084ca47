"""Dask logs no error for results that are missing if clients know why; it does for all others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from clusters import SETTINGS, dask_worker
from distributed import Client, Future, LocalCluster, wait
from processes import until

from dask_limits import LimitsWorkerPlugin, annotate
from dask_limits.dask.scheduler import gather_log
from dask_limits.dask.scheduler.plugin import plugin_of
from dask_limits.dask.topic import TOPIC

LOGGER = logging.getLogger("distributed.scheduler")


@pytest.fixture
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=0, **SETTINGS) as cluster, Client(cluster) as client:
        client.register_plugin(LimitsWorkerPlugin())
        yield client


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the scheduler, which is in this process, logs of results that it cannot fetch."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "gather" in record.getMessage():
                messages.append(record.getMessage())

    handler = Handler()
    LOGGER.addHandler(handler)
    yield messages
    LOGGER.removeHandler(handler)


def worker(client: Client) -> Any:
    """A worker that nobody restarts when it is killed."""
    return dask_worker(client.cluster.scheduler_address, "--nthreads", "1", "--no-dashboard")


def done(client: Client) -> tuple[Future, Future]:
    """Two tasks whose results nobody has fetched: one with limits, and one of the user's own."""
    with annotate(wall_time=60):
        limited = client.submit(abs, -1, key="limited")
    own = client.submit(abs, -2, key="own")
    wait([limited, own])
    return limited, own


def fetch(client: Client, *futures: Future) -> None:
    """Have the scheduler fetch results, as a client does."""
    client.sync(client.scheduler.gather, keys=[future.key for future in futures])


def test_of_results_that_are_lost_with_a_worker_only_those_are_logged_that_no_event_tells_of(
    client: Client, logged: list[str]
) -> None:
    with worker(client) as program:
        limited, own = done(client)
        program.kill()
        until(lambda: not client.cluster.scheduler.workers)
        fetch(client, limited)
        fetch(client, limited, own)
    (message,) = logged
    assert message.startswith("Couldn't gather keys: {'own': ")
    assert "limited" not in message
    until(lambda: "rerun" in [event["op"] for _, event in client.get_events(TOPIC)])


def test_of_results_that_are_fetched_while_they_are_cancelled_the_users_own_are_logged(
    client: Client, logged: list[str]
) -> None:
    with worker(client):
        limited, own = done(client)
        client.cancel([limited, own])
        until(lambda: not client.cluster.scheduler.tasks)
        fetch(client, limited, own)
    assert logged == ["Couldn't gather keys: {'own': 'forgotten'}"]


def log_as_dask_does() -> None:
    LOGGER.error("Couldn't gather keys: %s", {"limited": "memory"})


def test_a_result_that_cannot_be_fetched_from_a_worker_that_lives_on_is_logged_later(
    client: Client, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_log, "_NOTICE_S", 0.5)
    with worker(client):
        _futures = done(client)
        client.run_on_scheduler(log_as_dask_does)
        until(lambda: logged)
    assert logged == ["Couldn't gather keys: {'limited': 'memory'}"]


def test_a_result_that_cannot_be_fetched_is_not_logged_if_its_worker_turns_out_to_be_lost(
    client: Client, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_log, "_NOTICE_S", 60)
    with worker(client) as program:
        _futures = done(client)
        client.run_on_scheduler(log_as_dask_does)  # its connections break first
        program.kill()
        until(lambda: not client.cluster.scheduler.workers)

    def come_back_to_it(dask_scheduler: Any) -> None:
        plugin_of(dask_scheduler)._gather_log._log({"limited": "memory"})

    client.run_on_scheduler(come_back_to_it)
    assert not logged


def test_nothing_is_filtered_when_the_plugin_has_been_taken_away(client: Client) -> None:
    before = LOGGER.filters.copy()
    with worker(client):
        client.wait_for_workers(1)
        until(lambda: len(LOGGER.filters) == len(before) + 1)
        client.unregister_worker_plugin(LimitsWorkerPlugin.name)
        until(lambda: LOGGER.filters == before)
