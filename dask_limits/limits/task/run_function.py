"""Runs the function of one call, and packs its end."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

from dask_limits.limits import in_place
from dask_limits.limits.ipc import messages, payload, pickling
from dask_limits.limits.ipc.payload import Payload
from dask_limits.limits.linux import files


class Ended(NamedTuple):
    """How a call ended, and what its process used.

    Attributes:
        kind: The kind of answer, one of those in `messages`.
        end: Its payload.
        wall_time: Seconds.
        longest_step: Seconds, of its longest time without progress.
        cpu_time: Seconds, of its process and the children that this has waited for.
        peak_memory: Bytes.
    """

    kind: int
    end: Payload
    wall_time: float
    longest_step: float
    cpu_time: float
    peak_memory: int


def run_function(
    head: memoryview, fds: list[int], around: AbstractContextManager[object]
) -> tuple[int, Payload]:
    """Run the function of one call.

    Args:
        head: Its function, positional and keyword arguments, packed.
        fds: The file that came with it; it is closed.
        around: A context in which only the function runs.

    Returns:
        The kind of answer, one of those in `messages`, and its payload.
    """
    try:
        fn, args, kwargs = payload.unpack(head, fds)
    except BaseException as error:
        return pickling.pack_unpicklable("arguments", error)
    finally:
        files.close(fds)
    try:
        with around:
            value = in_place.call(fn, args, kwargs)
    except SystemExit as error:
        return messages.EXITED, pickling.pack(in_place.exit_status(error))
    except BaseException as error:
        return pickling.pack_raised(error)
    return pickling.pack_returned(value)
