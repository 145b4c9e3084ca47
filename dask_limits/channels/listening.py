"""The end of a channel that calls connect to: in the driver, or in the Dask worker above them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from dask_limits.channels import local_socket
from dask_limits.channels.asking import MOST_BYTES, SIZE

_AGAIN_S: Final = 0.1
"""When to accept again where this process can open no more files."""


class Listener:
    """Takes the questions of calls on this machine, and sends back what `answer` returns.

    Calls can connect as soon as this is made. They are answered from `begin` on, on the loop that
    it is called on. A server of asyncio would leave a connection open that is made while it closes.

    Raises:
        OSError: if this process listens to that channel already.
    """

    def __init__(self, channel: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._socket = local_socket.listen(channel)
        self._socket.setblocking(False)
        self._answer = answer
        self._talks: dict[asyncio.Task[None], socket.socket] = {}
        self._is_closed = False

    def begin(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_AGAIN_S, self._accept_again)
            return
        if not local_socket.is_of_this_user(connection):
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._talk(connection))
        self._talks[task] = connection
        task.add_done_callback(self._ended)

    def _accept_again(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._socket, self._accept)

    async def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(EOFError, OSError):  # the call has ended
            while True:
                (size,) = SIZE.unpack(await self._received(connection, SIZE.size))
                if size > MOST_BYTES:
                    return
                answer = await self._answer(bytes(await self._received(connection, size)))
                await self._loop.sock_sendall(connection, SIZE.pack(len(answer)) + answer)

    async def _received(self, connection: socket.socket, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            if not (n := await self._loop.sock_recv_into(connection, rest)):
                raise EOFError
            rest = rest[n:]
        return data

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._talks.pop(task).close()

    def close(self) -> None:
        """Close all connections, and take no more. On the loop, if this has begun."""
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for task in self._talks:
            task.cancel()
