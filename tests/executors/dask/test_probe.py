"""An address at which there is no Dask scheduler: Dask's own client would wait without an end."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import pytest
from clusters import nothing_is_left_behind  # noqa: F401
from distributed import LocalCluster
from distributed.security import Security

from dask_limits import Scheduler
from dask_limits.executors.dask.executor import DaskExecutor


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def quickly() -> Iterator[None]:
    """For what gets no answer that Dask understands: it would try again for 30 s."""
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        yield


@contextmanager
def listening(answer: bytes | None = None) -> Iterator[str]:
    """Something on this machine that listens, and says this, or nothing, to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(answer or b"")
                connection.recv(1 << 16)

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def refused(address: str, security: Security | None = None) -> str:
    scheduler = Scheduler.with_dask(address, security=security)
    with pytest.raises(OSError, match=re.escape(address)) as caught:
        scheduler.run(timeout=30)
    return str(caught.value)


@pytest.mark.usefixtures("quickly")
def test_the_dashboard_is_told_from_the_scheduler(cluster: LocalCluster) -> None:
    address = cluster.dashboard_link.replace("http:", "tcp:").removesuffix("/status")
    assert "Perhaps this is the address of the dashboard" in refused(address)


def test_a_worker_or_a_nanny_is_told_from_the_scheduler(cluster: LocalCluster) -> None:
    assert "but a Worker." in refused(cluster.workers[0].worker_address)
    assert "but a Nanny." in refused(cluster.workers[0].address)


@pytest.mark.usefixtures("quickly")
def test_what_never_answers_is_not_waited_for() -> None:
    with listening() as address:
        assert "accepts connections and does not answer" in refused(address)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2p1\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_another_protocol_is_told_of(answer: bytes) -> None:
    with listening(answer) as address:
        assert "another protocol" in refused(address)


@pytest.mark.usefixtures("quickly")
def test_nobody_there_is_said_as_dask_says_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "Timed out trying to connect" in refused(f"tcp://127.0.0.1:{port}")


def test_credentials_of_another_cluster_are_told_of() -> None:
    own, others = Security.temporary(), Security.temporary()
    options = {"n_workers": 0, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(security=own, **options) as cluster:
        told = refused(cluster.scheduler_address, others)
        assert "Perhaps the credentials are those of another cluster" in told


INTERRUPTED = """
import os, signal, sys, threading
from dask_limits import Scheduler
threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    Scheduler.with_dask(sys.argv[1]).run()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_waits_for_no_answer() -> None:
    began = time.monotonic()
    with listening() as address:
        program = [sys.executable, "-c", INTERRUPTED, address]
        assert subprocess.check_output(program) == b"interrupted\n"
    assert time.monotonic() - began < 20  # Dask's time for connecting is 30 s


def test_credentials_that_are_missing_are_asked_for(cluster: LocalCluster) -> None:
    address = cluster.scheduler_address.replace("tcp:", "tls:")
    assert "pass a distributed.Security" in refused(address)


def test_what_is_no_address_is_refused_in_dasks_words() -> None:
    with pytest.raises(ValueError, match="missing port number"):
        DaskExecutor.connect("nonsense")


@pytest.mark.parametrize("prefix", ["tcp://", ""])
def test_a_scheduler_is_connected_to_with_and_without_a_protocol(
    cluster: LocalCluster, prefix: str
) -> None:
    address = cluster.scheduler_address.replace("tcp://", prefix)
    with DaskExecutor.connect(address) as executor:
        assert executor.submit(abs, -1).result() == 1


@pytest.mark.parametrize("answers", [False, True])
def test_the_time_limit_of_a_run_holds_while_it_connects(answers: bool) -> None:
    """Whether nobody is there, or something that does not answer."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": "30s"}))
        if answers:
            address = stack.enter_context(listening())
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        scheduler = Scheduler.with_dask(address)
        begun = time.monotonic()
        text = "does not answer" if answers else "Timed out trying to connect"
        with pytest.raises(OSError, match=text):
            scheduler.run(timeout=1.5)
        assert time.monotonic() - begun < 10, "Dask would wait for 30 s"
    assert not scheduler.running()
