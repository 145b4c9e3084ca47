"""What calls of a warm process leave open, and which of it stays."""

import fcntl
import os
import socket
import sqlite3
import struct
import sys
import tempfile
import time

import cloudpickle
import pytest

from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

WARM = Limits(isolation="warm")
WHOLE = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
F_OFD_SETLK = 37


def flock(path):
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)


def lockf(path):
    fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)


def lockf_a_part(path):
    fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)


def ofd(path):
    fcntl.fcntl(os.open(path, os.O_RDWR), F_OFD_SETLK, WHOLE)


def begin_in_sqlite(path):
    sqlite3.left = sqlite3.connect(path.with_name("data"), timeout=0)
    sqlite3.left.execute("BEGIN IMMEDIATE")


def listen_on_tcp(path):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", int(path.read_text())))
    server.listen()
    server.detach()


def listen_on_unix(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\0{path}")
    server.listen()
    server.detach()


def leave(take, *args):
    take(*args)
    return os.getpid()


@pytest.fixture
def path(tmp_path):
    """A file with the number of a port that is free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        (tmp_path / "file").write_text(str(one.getsockname()[1]))
    return tmp_path / "file"


@pytest.mark.parametrize(
    "take", [flock, lockf, lockf_a_part, ofd, begin_in_sqlite, listen_on_tcp, listen_on_unix]
)
def test_what_only_one_can_have_goes_with_the_call_that_leaves_it(guardian, path, take):
    pids = [guardian.run(leave, (take, path), {}, WARM).result() for _ in range(5)]
    assert len(set(pids)) == 5


def open_plainly(path):
    os.open(path, os.O_RDWR)


def lock_shared(path):
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)


def read_by_sqlite(path):
    sqlite3.kept = sqlite3.connect(path.with_name("data"))
    sqlite3.kept.execute("PRAGMA journal_mode=wal")
    sqlite3.kept.execute("CREATE TABLE IF NOT EXISTS one (two)")
    sqlite3.kept.execute("SELECT * FROM one").fetchall()


def lock_as_lmdb(path):
    fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX, 1, os.getpid())


@pytest.mark.parametrize("take", [open_plainly, lock_shared, read_by_sqlite, lock_as_lmdb])
def test_what_others_can_have_too_stays(guardian, path, take):
    assert len({guardian.run(leave, (take, path), {}, WARM).result() for _ in range(5)}) == 1


def connect(address):
    socket.create_connection(address).detach()


def test_a_connection_stays(guardian):
    with socket.create_server(("127.0.0.1", 0)) as server:
        calls = [guardian.run(leave, (connect, server.getsockname()), {}, WARM) for _ in range(5)]
        assert len({call.result() for call in calls}) == 1


def open_and_hold(folder):
    time.sleep(0.2)  # so a process is worth keeping, also for a call that has to wait
    os.opened, _ = tempfile.mkstemp(dir=folder)
    locked, _ = tempfile.mkstemp(dir=folder)
    fcntl.flock(locked, fcntl.LOCK_EX)
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.dup(server.fileno())


def lock_what_is_open():
    fcntl.flock(os.opened, fcntl.LOCK_EX)
    time.sleep(0.001)


@pytest.mark.parametrize("isolation", ["clean", "warm"])
def test_what_the_initializer_holds_stays_but_no_lock_of_a_call_on_what_it_has_opened(
    tmp_path, isolation
):
    limits = Limits(isolation=isolation)
    with Guardian(preload=Preload.of([], open_and_hold, [tmp_path])) as guardian:
        pids = [guardian.run(leave, (int,), {}, limits).result() for _ in range(5)]
        assert len(set(pids)) == 1
        assert guardian.run(leave, (lock_what_is_open,), {}, limits).result() == pids[0]
        assert guardian.run(leave, (int,), {}, limits).result() != pids[0]
