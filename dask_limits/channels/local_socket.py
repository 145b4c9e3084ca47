"""Local sockets over which only processes of this user talk.

They have names in Linux's abstract namespace: a killed process leaves no file behind. Everybody can
see such a name and connect to it. So each end asks the kernel whose process the other one is,
before it reads or sends a byte.

Source: unix(7), abstract sockets and SO_PEERCRED.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from dask_limits.limits.linux import proctree

_WAITING: Final = 128
"""How many may have connected before they are accepted; further ones wait."""
_CONNECT_S: Final = 60.0
"""Seconds until a call gives up connecting. On a busy machine it takes long to be accepted."""
_CREDENTIALS: Final = struct.Struct("=iII")  # pid, uid, gid


class Address(NamedTuple):
    """Where a channel can be reached by a call, which takes this along."""

    channel: str
    pid: int | None
    """The process that listens; None for one above the call: its Dask worker."""


def listen(channel: str) -> socket.socket:
    """A socket of this process, to which calls can connect from now on.

    Raises:
        OSError: if this process listens to that channel already.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(_name(channel, os.getpid()))
        sock.listen(_WAITING)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(address: Address) -> socket.socket:
    """A connection to the process that listens.

    Raises:
        ConnectionError: if there is none of this user.
    """
    for pid in _candidates(address):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_CONNECT_S)
            sock.connect(_name(address.channel, pid))
            if is_of_this_user(sock):
                sock.settimeout(None)
                return sock
        except OSError:
            pass  # nobody listens by that name
        except BaseException:
            sock.close()
            raise
        sock.close()
    raise ConnectionError(
        "This call cannot reach the program that submitted it. Either that has ended, or the call"
        " runs on another machine, in an executor that is not Dask's: pass the Dask Client or"
        " Cluster itself."
    )


def is_of_this_user(sock: socket.socket) -> bool:
    """Whether the other end of a connection is a process of this user."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(found)
    return bool(uid == os.geteuid())


def _name(channel: str, pid: int) -> str:
    return f"\0dask-limits-{channel}-{pid}"


def _candidates(address: Address) -> Iterator[int]:
    """The processes that may listen, the most likely one first."""
    if address.pid is not None:
        yield address.pid
        return
    pid = os.getpid()
    while pid > 0:
        yield pid
        process = proctree.read_process(pid)
        pid = 0 if process is None else process.parent
