"""Runs the function of one call, and makes of its end what can be sent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

from dask_limits.limits import in_place
from dask_limits.limits.ipc import messages, payload, pickling
from dask_limits.limits.ipc.payload import Payload
from dask_limits.limits.linux import files
from dask_limits.limits.tracebacks import say, text_of


class Ended(NamedTuple):
    """How the function of a call ended, and what its process used.

    Attributes:
        kind: One of those in `messages`.
        end: What goes with it.
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
    """Run one call to its end, whichever way it ends.

    Args:
        head: Its function, positional and keyword arguments, packed.
        fds: The file that came with it; it is closed.
        around: Entered around the call of the function alone.

    Returns:
        The kind of end, one of those in `messages`, and what goes with it.
    """
    try:
        fn, args, kwargs = payload.unpack(head, fds)
    except BaseException as error:
        return _unpicklable("arguments", error)
    finally:
        files.close(fds)
    try:
        with around:
            value = in_place.call(fn, args, kwargs)
    except SystemExit as error:
        return messages.EXITED, pickling.pack(in_place.exit_status(error))
    except BaseException as error:
        return _pack_exception(error)
    try:
        return messages.RETURNED, pickling.pack(value)
    except BaseException as error:
        return _unpicklable("result", error)


def _pack_exception(error: BaseException) -> tuple[int, Payload]:
    text = text_of(error)
    try:
        packed = pickling.pack((pickling.without_history(error), text))
        # many exceptions can be pickled, but not unpickled
        payload.unpack(memoryview(packed.head), list(packed.fds))
    except BaseException as why:
        return _unpicklable("exception", why, say(error), text)
    return messages.RAISED, packed


def _unpicklable(
    part: str, error: BaseException, what: str = "", text: str = ""
) -> tuple[int, Payload]:
    return messages.UNPICKLABLE, pickling.pack((part, say(error), what, text or text_of(error)))
