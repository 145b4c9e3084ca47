from __future__ import annotations

import math
import os
import socket

from dask_limits.limits.guardian.monitor import Watch
from dask_limits.limits.ipc import task_cells


class TaskProcess:
    """The guardian's record of one task process.

    Attributes:
        row: Its row of the owner cells.
        sock: A copy of its end of the socket, to send a verdict even when the process has ended.
        watch: What is known of the call that runs.
        cause: Why it is being ended; empty if it is not.
    """

    def __init__(self, row: int, pid: int, sock: socket.socket, task_cells_fd: int) -> None:
        self.row = row
        self.pid = pid
        self.sock = sock
        self.task_cells_fd = task_cells_fd
        self.task_cells = task_cells.read(task_cells_fd)
        self.watch: Watch | None = None
        self.cause = ""
        self.stacks_until = math.inf
        self.stacks_size = 0
        self.killed_at = math.inf
        self.dead = False
        self.released = False
        self.verdict: tuple[int, int, bytes] | None = None
        self.hung_up = False

    def close(self) -> None:
        """Close its files."""
        self.sock.close()
        self.task_cells.close()
        os.close(self.task_cells_fd)
