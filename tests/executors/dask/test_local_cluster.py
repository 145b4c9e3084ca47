"""The cluster on this machine that is started for those who bring none: nobody else gets in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from distributed.security import Security

from dask_limits import Scheduler, limit
from dask_limits.executors.dask.executor import DaskExecutor


@pytest.fixture(scope="module")
def executor() -> Iterator[DaskExecutor]:
    with DaskExecutor.connect(n_workers=1) as executor:
        executor.submit(limit(abs, wall_time=20), -1).result()  # so that all of it runs
        yield executor


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> None:
    """Not after each test: the cluster lives on. That it ends is tested in test_dask.py."""


@pytest.mark.parametrize("credentials", ["none", "none, and no TLS", "those of another cluster"])
def test_a_client_without_the_credentials_cannot_connect(
    executor: DaskExecutor, credentials: str
) -> None:
    address = executor.client.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    if credentials == "none, and no TLS":
        address = address.replace("tls://", "tcp://")
    security = "Security.temporary()" if credentials == "those of another cluster" else "None"
    # In a process of its own, as that of another user. Dask leaves such a client half open, and
    # may wait for ever if it is collected while another one starts.
    program = f"""if True:
        from distributed import Client
        from distributed.security import Security

        try:
            Client({address!r}, security={security}, timeout=1, set_as_default=False)
        except (OSError, TypeError):
            print("refused")
        """
    stranger = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert stranger.stdout == "refused\n"
    assert executor.submit(abs, -1).result() == 1


def test_a_client_with_the_credentials_can(executor: DaskExecutor) -> None:
    scheduler = Scheduler.with_dask(
        executor.client.scheduler.address, security=executor.client.security
    )
    scheduler.on_start(lambda: scheduler.submit(abs, -3))
    results: list[Any] = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.run(timeout=60)
    assert results == [3]


def test_all_of_it_listens_on_the_loopback_interface_alone(executor: DaskExecutor) -> None:
    (worker,) = executor.client.run(os.getpid).values()
    processes = [psutil.Process(), psutil.Process(worker), *psutil.Process(worker).children(True)]
    net_connections = getattr(psutil.Process, "net_connections", None)  # psutil 6
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in (net_connections or psutil.Process.connections)(process, "inet")
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
