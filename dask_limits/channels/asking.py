"""The end of a channel in a call."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any, Final, Self

from dask_limits.channels.local_socket import Address, connect
from dask_limits.units import format_bytes

SIZE: Final = struct.Struct("=Q")
"""What comes before each question and each answer: how many bytes it has."""
MOST_BYTES: Final = 64 * 2**20
"""A question is no longer: the driver has it in memory as a whole."""


class Asker:
    """Asks the driver, from any thread of a call, and from processes that it has forked.

    It can be pickled for other processes that a call starts on its machine.

    Args:
        address: Where the driver is reached.
        always: What each question says besides what is asked.
    """

    def __init__(self, address: Address, always: Mapping[str, str]) -> None:
        self._address = address
        self._always = dict(always)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def ask(self, **question: Any) -> Any:
        """Send a question that JSON can express, and return the answer.

        Raises:
            ConnectionError: if the driver cannot be reached any more.
            TypeError: if JSON cannot express the question.
            ValueError: if it is too long.
            Exception: what the driver answers with.
        """
        body = json.dumps(self._always | question, default=_plain).encode()
        if len(body) > MOST_BYTES:
            raise ValueError(
                f"{format_bytes(len(body))} are too much to send to the program of this call:"
                f" {format_bytes(MOST_BYTES)} at most. Write them to a file, and send its name."
            )
        if self._pid != os.getpid():  # in a fork, whose parent goes on with this connection
            self.close()
            self._begin()
        with self._lock:
            answer = self._exchange(body)
        is_value, value = pickle.loads(answer)
        if not is_value:
            raise value
        return value

    def _exchange(self, body: bytes) -> bytearray:
        try:
            if self._socket is None:
                self._socket = connect(self._address)
            self._socket.sendall(SIZE.pack(len(body)) + body)
            (size,) = SIZE.unpack(_received(self._socket, SIZE.size))
            return _received(self._socket, size)
        except BaseException:  # a signal may interrupt this: the next answer would be to this
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. The next question opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._address, self._always)


def _received(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        if not (n := sock.recv_into(rest)):
            raise ConnectionError("The program that submitted this call listens to it no more")
        rest = rest[n:]
    return data


def _plain(value: Any) -> Any:
    """A number of NumPy and the like as one of Python."""
    with contextlib.suppress(Exception):
        return value.item()
    raise TypeError(f"{value!r} is of type {type(value).__name__}, which JSON does not have")
