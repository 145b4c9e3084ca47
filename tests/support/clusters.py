"""What tests of real Dask clusters share."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil
import pytest
from leftovers import close_default_guardian
from processes import children, command, until

if TYPE_CHECKING:
    from distributed import Client

SETTINGS = {"dashboard_address": "127.0.0.1:0"}


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """For modules whose clusters live on from one test to the next: import it there."""
    before = children()
    yield
    close_default_guardian()
    until(
        lambda: children() <= before,
        instead=lambda: [f"{pid} {command(pid)}" for pid in children() - before],
    )


@contextmanager
def nothing_sent(client: Client) -> Iterator[None]:
    """Have a client send nothing meanwhile: its loop stands still.

    Until it does, it may still have to do with calls of before, and send those that come meanwhile
    with what these leave room for.
    """
    stands, go_on = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        go_on.wait(60)

    client.loop.add_callback(stand)
    assert stands.wait(60)
    try:
        yield
    finally:
        go_on.set()


@contextmanager
def dask_program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `dask scheduler` or `dask worker` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "dask", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        below: list[psutil.Process] = []
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                below = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for one in below:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def start_forkserver() -> None:
    """Start the process from which workers are forked. What they log goes nowhere."""
    forkserver.set_forkserver_preload(
        ["distributed.cli.dask_worker", "dask_limits.dask.worker.plugin"]
    )
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    forkserver.ensure_running()
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(null)


@contextmanager
def dask_worker(
    *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[BaseProcess]:
    """A `dask worker` without a nanny, forked from a process that has imported Dask."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_work, args=[arguments, dict(environment)])
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _work(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from distributed.cli.dask_worker import main

    main([*arguments, "--no-nanny"])


def pids_of_stubborn(pids_file: Path) -> set[int]:
    """Of the call and its grandchild, as soon as they run."""
    until(lambda: pids_file.exists() and pids_file.read_text().endswith("\n"))
    return set(map(int, pids_file.read_text().split()))


class Proxy:
    """Connections to an address on this machine that can be cut, and slowed down."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._sockets: list[socket.socket] = []
        self._open = True
        self.n_bytes = 0
        """How many it has carried to the client."""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = "tcp://{}:{}".format(*self._server.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                continue
            scheduler = socket.create_connection(self._target)
            self._sockets += [client, scheduler]
            for ends in [(client, scheduler), (scheduler, client)]:
                threading.Thread(target=self._carry, args=[*ends, client], daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, client: socket.socket) -> None:
        try:
            while data := source.recv(2**16):
                sink.sendall(data)
                self.n_bytes += len(data) if sink is client else 0
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Cut all connections, and take no new ones."""
        self._open = False
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets.clear()

    def mend(self) -> None:
        """Take new connections again."""
        self._open = True

    def close(self) -> None:
        """Cut all connections, for good."""
        self.cut()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
