"""The cluster on this machine that is started for those who bring none: nobody else gets in."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.security import Security

from dask_limits import Scheduler, limit
from dask_limits.executors.dask import DaskExecutor


@pytest.fixture(scope="module")
def executor() -> Iterator[DaskExecutor]:
    with DaskExecutor.connect(n_workers=1) as executor:
        executor.submit(limit(abs, wall_time=20), -1).result()  # so that all of it runs
        yield executor


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> None:
    """Not after each test: the cluster lives on. That it ends is tested in test_dask.py."""


def test_a_client_without_the_credentials_cannot_connect(executor: DaskExecutor) -> None:
    address = executor.client.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    for given in [address, address.replace("tls://", "tcp://")]:
        with pytest.raises((OSError, TypeError)):
            Client(given, timeout=1, set_as_default=False)
    # Dask leaves one of these half open. It closes it in `__del__`, and waits for ever if that is
    # called while another one starts: so not then.
    gc.collect()
    with pytest.raises(OSError, match=r"Timed out|certificate|handshake"):
        Client(address, security=Security.temporary(), timeout=1, set_as_default=False)
    assert executor.submit(abs, -1).result() == 1


def test_a_client_with_the_credentials_can(executor: DaskExecutor) -> None:
    scheduler = Scheduler.with_dask(
        executor.client.scheduler.address, security=executor.client.security
    )
    scheduler.on_start(lambda: scheduler.submit(abs, -3))
    results: list[Any] = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.run(timeout=20)
    assert results == [3]


def test_all_of_it_listens_on_the_loopback_interface_alone(executor: DaskExecutor) -> None:
    (worker,) = executor.client.run(os.getpid).values()
    processes = [psutil.Process(), psutil.Process(worker), *psutil.Process(worker).children(True)]
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3  # scheduler, dashboard and nanny; worker
    assert set(listening) == {"127.0.0.1"}


def test_credentials_can_be_brought_or_left_out() -> None:
    own = Security.temporary()
    with DaskExecutor.connect(n_workers=1, security=own) as executor:
        assert executor.client.security is own
        assert executor.submit(abs, -1).result() == 1
    with DaskExecutor.connect(n_workers=1, security=False) as executor:
        assert executor.client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert executor.submit(abs, -1).result() == 1


def test_credentials_that_could_do_nothing_are_refused(executor: DaskExecutor) -> None:
    own = Security.temporary()
    address = executor.client.scheduler.address
    for where, security in [
        (executor.client, own),
        (executor.client.cluster, own),
        (executor.client, False),
        (address, True),
        (address, False),
    ]:
        with pytest.raises(ValueError, match="has its own"):
            Scheduler.with_dask(where, security=security)
    with pytest.raises(TypeError, match=r"Use a distributed\.Security"):
        Scheduler.with_dask(security="tls")  # type: ignore[arg-type]
