"""The messages between an owner, its guardian and its task processes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from dask_limits.limits.outcome import ChildProcess, Usage

# From the owner to a task process, each with the number of the call.
SETTING: Final = 1  # packed Setting (of process_state.py), for this call and those that follow
REQUEST: Final = 2  # ORDERS, then of each call, which have numbers that follow each other, SIZE and
# packed (function, args, kwargs). If there are files, it is one call: after those of its pack, one
# for what it tells of its progress, if it is to, and two for standard output and standard error, if
# these are captured

# From a task process to its owner: ACCOUNT, then packed:
RETURNED: Final = 3  # the value
RAISED: Final = 4  # (the exception, the text of its traceback)
# or, packed as texts:
EXITED: Final = 5  # the exit status that sys.exit asked for
UNPICKLABLE: Final = 6  # part, why, what the call raised or "", text of a traceback
BREACHED: Final = 9  # the name of the limit for which pynisher has ended the call
SKIPPED: Final = 28  # nothing: it has not begun this call of a request, nor those after it
IMPORTED: Final = 23  # before the answer: what the call has imported, see imports.py
PREPARED_IMPORTS: Final = 27  # before the first answer: the same, of the user's modules, before it
ANSWERS: Final = {RETURNED, RAISED, EXITED, UNPICKLABLE, BREACHED}

# From the guardian to the owner, on the socket of a task process: the key that was in SPAWNED_BODY,
# by which calls, which can write there too, are told from the guardian, then:
VERDICT: Final = 7  # pickled Verdict, by the standard pickle
UNBEGUN: Final = 8  # nothing: the process has not begun this call of a request, nor those after it,
# and does not any more

# From the owner to the guardian; the number is a row of the owner cells, or of a template.
PREPARE: Final = 16  # make a template: PREPARE_BODY, then packed Preparation. The answer is in the
# owner cells when it is ready, else FAILED
SPAWN: Final = 10  # a task process of this template; the answer is SPAWNED, REFUSED or UNPREPARED
END: Final = 11  # end this process; there is no answer
CANCEL: Final = 12  # the body is the number of a call: end the process if it still runs that
WAKE: Final = 13  # look for new calls in the owner cells

# From the guardian to the owner.
FAILED: Final = 24  # the number is that of a template, which has ended; the body is a report
SPAWNED: Final = 14  # the number is the row, the body SPAWNED_BODY, the file the socket
REFUSED: Final = 15  # the body says why: there is no room
UNPREPARED: Final = 25  # a task process of this template has failed before its first call; the body
# is a report
# A report is the text of an error; after a null byte, the text of its traceback.

# From the guardian to a template: EXCLUDED, PREPARE as it comes, and
FORK: Final = 18  # with the files of a task process: its socket and its cells

# From a template to the guardian: FAILED, and
PREPARED: Final = 17  # the number is its own
EXCLUDED: Final = 22  # packages that it must not import, see import_watch.py; it has ended
FORKED: Final = 19  # the number is that of FORK, the body FORKED_BODY
UNFORKED: Final = 26  # the number is that of FORK; the body says why there is no room
SETTLED: Final = 20  # from the task process: SETTLED_BODY, and a report if it has failed
ENDED: Final = 21  # the number is a pid, the body ENDED_BODY

PREPARE_BODY: Final = struct.Struct("=dQ")
"""Seconds that the template may take, and each of its task processes, until it is ready; and the
bytes of memory that the template may have until then, or 0."""
SPAWNED_BODY: Final = struct.Struct("=QdQ8s")
"""Pid of a task process, seconds that another one would cost, the number of its template, and the
key of what the guardian sends on the socket of the process."""
FORKED_BODY: Final = struct.Struct("=Qd")
"""Pid of a task process, and CPU seconds that its template has spent on it."""
SETTLED_BODY: Final = struct.Struct("=d")
"""Seconds that the task process has spent on itself."""
ENDED_BODY: Final = struct.Struct("=idQQ")
"""Wait status of a process, its CPU seconds, its peak bytes, and its session."""

ACCOUNT: Final = struct.Struct("=ddddQQ")
"""Of a call that has ended, see `Account`."""
FRESH_ACCOUNT: Final = struct.Struct("=ddddQ")
"""From a fresh process to its task process: ACCOUNT without the last field."""
ORDERS: Final = struct.Struct("=dddB????dQ")
SIZE: Final = struct.Struct("=I")
MOST_CALLS: Final = 64
"""In one request."""
START_METHODS: Final = ("", "fork", "forkserver", "spawn")


class Orders(NamedTuple):
    """What a task process needs to know of a call's limits; the guardian enforces the rest."""

    wall_time: float  # seconds, as the next two; 0 is none
    cpu_time: float
    grace_period: float
    start_method: int  # how to start a fresh process for the call: its index in START_METHODS
    captures: bool  # whether its output goes to files that come with the request
    keeps: bool  # whether its process is used again with what libraries keep in it on purpose
    tells: bool  # whether what it says of its progress is asked for
    reserved: bool  # whether it has reserved something, so that limited calls in it need not
    # Of a request with several calls, the next ones begin only until they have taken so many
    # seconds together, and left so many bytes in the process:
    seconds: float
    memory: int


class Account(NamedTuple):
    """What a call that has ended has used, as its task process says."""

    wall_time: float  # seconds, as the next three
    longest_step: float  # wall time without progress
    loading: float  # wall time before its function began
    cpu_time: float
    peak_memory: int  # bytes beyond what its process had before it
    first_memory: int  # bytes that the process had before its first call


class Verdict(NamedTuple):
    """How a call's process ended, as the guardian saw it.

    Its cause is the limit that was breached ("memory", "cpu_time", "wall_time", "num_processes");
    "cancelled"; "died" if the guardian did not end it; "deaf" if the call closed the socket for its
    answer; or "mute" if the call was done and no answer was sent.
    """

    cause: str
    usage: Usage  # of the whole tree; the exit code is None if the process could not be ended
    system_memory: bool  # whether the kernel killed a process because memory had run out
    stacks: str  # Python stacks of its threads
    child: ChildProcess | None  # the one with the largest share of what was breached, if any
    looked_for: str = ""  # modules that the call has imported, or was about to; one in a line


def calls_in(request: memoryview) -> Iterator[memoryview]:
    """The packed calls of a request, one after the other."""
    at = ORDERS.size
    while at < len(request):
        (size,) = SIZE.unpack_from(request, at)
        start, at = at + SIZE.size, at + SIZE.size + size
        yield request[start:at]
