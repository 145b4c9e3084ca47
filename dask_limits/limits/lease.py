from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from typing import TYPE_CHECKING

from dask_limits.limits import messages, proctree, slots, wire
from dask_limits.limits.limits import Limits

if TYPE_CHECKING:
    from dask_limits.limits.connection import Connection


class Lease:
    """A task process in its owner's hands, for one call at a time.

    Attributes:
        row: Its row in the table.
        pid: Its process.
        number: Of the call that it runs, or ran last.
        children_cpu_time: CPU seconds of all children that it has waited for, as it said last.
        reusable: Whether another call may run in it.
    """

    def __init__(self, connection: Connection, row: int, pid: int, sock: socket.socket) -> None:
        self._connection = connection
        self._slots = connection.slots
        self._sock = sock
        self._receiver = wire.Receiver(sock)
        self._setting: messages.Setting | None = None
        self.row = row
        self.pid = pid
        self.number = 0
        self.children_cpu_time = 0.0
        self.reusable = True

    def begin(self, limits: Limits, request: bytes) -> bool:
        """Start a call.

        Returns:
            False when the process was dead before it could take the call.
        """
        row, table = self.row, self._slots
        self.number = next(self._connection.numbers)
        table.put_float(row, slots.WALL_TIME, limits.wall_time or 0.0)
        table.put_float(row, slots.CPU_TIME, limits.cpu_time or 0.0)
        table.put(row, slots.MEMORY, limits.memory or 0)
        table.put(row, slots.NUM_PROCESSES, limits.num_processes or 0)
        cpu_before = proctree.cpu_seconds(self.pid) + self.children_cpu_time
        table.put_float(row, slots.CPU_BEFORE, cpu_before)
        table.put_float(row, slots.START, time.monotonic())
        table.put(row, slots.CALL, self.number)
        if table.asleep:
            self._connection.wake()
        try:
            self._send_setting()
            wire.send(self._sock, messages.REQUEST, self.number, request)
        except ConnectionError:
            return False
        return True

    def _send_setting(self) -> None:
        """Keep the process where its owner is: the same modules, the same relative paths."""
        setting = messages.Setting(sys.path, _directory())
        if setting != self._setting:
            wire.send(self._sock, messages.SETTING, self.number, pickle.dumps(setting))
            self._setting = messages.Setting(list(sys.path), setting.directory)

    def wait(self) -> tuple[int, memoryview] | None:
        """Wait for the end of the call: what it says, or what the guardian says of it.

        Returns:
            Kind and body of the message; None when the guardian is gone, or the process was
            dead before it could take the call.
        """
        while True:
            try:
                message = self._receiver.receive()
            except OSError:
                return None
            if message is None:
                return None
            kind, number, body = message
            if number == self.number:
                return kind, body

    def peaks(self) -> tuple[int, int]:
        """Most memory (bytes) and most processes that the guardian has seen in this call."""
        table, row = self._slots, self.row
        if table.get(row, slots.SEEN) != self.number:
            return 0, 1
        return table.get(row, slots.PEAK_MEMORY), table.get(row, slots.PEAK_PROCESSES)

    def cancel(self) -> None:
        """Have the guardian end the call, if it still runs."""
        self._connection.cancel(self.row, self.number)

    def finish(self) -> None:
        """The call is over: give the process back, or end it if it is not fit for another."""
        self._slots.put(self.row, slots.CALL, 0)
        if self.reusable and not self._slots.get(self.row, slots.CONDEMNED):
            self._connection.give_back(self)
        else:
            self.drop()

    def drop(self) -> None:
        """End the process, whatever it does."""
        self._slots.put(self.row, slots.CALL, 0)
        self._connection.end(self)

    def resident(self) -> int:
        """Bytes of resident memory that the process holds now."""
        process = proctree.read_process(self.pid)
        return 0 if process is None else process.resident

    def close(self) -> None:
        """Close the socket with the process."""
        self._sock.close()


def _directory() -> str:
    try:
        return os.getcwd()  # Path.cwd() costs ten times as much
    except OSError:  # it has been removed
        return "/"
