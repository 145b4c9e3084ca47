"""What an owner, its guardian and its task processes say to each other."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from dask_limits.limits.outcome import ChildProcess

# From the owner to a task process, each with the number of the call.
SETTING: Final = 1  # pickled Setting (of process_state.py), for this call and those that follow
REQUEST: Final = 2  # ORDERS, then packed (function, args, kwargs); the last two files, if
# output is captured, are for what is printed

# From a task process to its owner: the account, then what came out, pickled.
RETURNED: Final = 3  # the value
RAISED: Final = 4  # (exception, text of its traceback)
EXITED: Final = 5  # the argument of SystemExit
UNPICKLABLE: Final = 6  # (part, description, text of the traceback)
BREACHED: Final = 9  # the name of a limit: pynisher has ended the call

# From the guardian to the owner, on the socket of a task process.
VERDICT: Final = 7  # pickled Verdict
UNBEGUN: Final = 8  # the process has ended, and has not begun the call

# From the owner to the guardian; the number is a row of the owner cells.
SPAWN: Final = 10  # answered with SPAWNED and a file descriptor
END: Final = 11  # end this process; nobody waits for it
CANCEL: Final = 12  # end it if it still runs the call in the body, and give a verdict
WAKE: Final = 13

# From the guardian to the owner.
SPAWNED: Final = 14  # the number is the row; the body is the pid
REFUSED: Final = 15  # the body says why


ACCOUNT: Final = struct.Struct("=ddddQ")
"""Of a call that came to its end: wall seconds, wall seconds of its longest step without progress,
CPU seconds, CPU seconds of all children that its process has ever waited for, and peak bytes."""
FRESH_ACCOUNT: Final = struct.Struct("=dddQ")
"""Of a call in a fresh process, for its task process: the first three of these, and the last."""
ORDERS: Final = struct.Struct("=dddBB")
_START_METHODS: Final = ("", "fork", "forkserver", "spawn")


class Orders(NamedTuple):
    """What a task process needs to know of a call's limits; the guardian holds the rest.

    Attributes:
        wall_time: Limit in seconds; 0 is none.
        cpu_time: As `wall_time`.
        grace_period: Seconds; 0 is none.
        start_method: How a fresh process is started for the call; empty for none.
        captures: Whether what it prints goes into files that come with the request.
    """

    wall_time: float
    cpu_time: float
    grace_period: float
    start_method: str
    captures: bool

    def pack(self) -> bytes:
        """As bytes."""
        method = _START_METHODS.index(self.start_method)
        return ORDERS.pack(*self[:3], method, self.captures)

    @classmethod
    def unpack(cls, data: memoryview) -> Orders:
        """From bytes."""
        wall_time, cpu_time, grace_period, method, captures = ORDERS.unpack_from(data)
        return cls(wall_time, cpu_time, grace_period, _START_METHODS[method], bool(captures))


@dataclass(frozen=True)
class Verdict:
    """How a call's process came to its end, by the guardian's own observation.

    Attributes:
        cause: The limit that was breached ("memory", "cpu_time", "wall_time", "num_processes"),
            "cancelled", "died": it was not the guardian who ended it, "deaf": the call closed
            the socket on which it was to answer, or "mute": it was done, and did not answer.
        status: As `os.waitstatus_to_exitcode` gives it; None if it could not be ended.
        wall_time: Seconds.
        cpu_time: Seconds, of the whole tree.
        peak_memory: Bytes, of the whole tree.
        peak_processes: Most at one time.
        system_memory: Whether the kernel has killed a process for want of memory meanwhile.
        stacks: Python stacks of its threads, as text.
        child: The child process with the largest share of what was breached, if it is one.
    """

    cause: str
    status: int | None
    wall_time: float
    cpu_time: float
    peak_memory: int
    peak_processes: int
    system_memory: bool
    stacks: str
    child: ChildProcess | None
