from __future__ import annotations

import functools
import io
import pickle
from typing import Any

from dask_limits.limits.ipc import payload
from dask_limits.limits.ipc.by_value import CallPickler
from dask_limits.limits.shared import Shared
from dask_limits.limits.tracebacks import say


def share(obj: Any) -> Any:
    """Share an object with calls: its data is copied once, now, and not for each call.

    The handle that this returns can be passed to any call, anywhere among its arguments. The call
    gets the object, as it is now; its arrays can only be read. On one machine all processes use the
    same memory, which does not count for the memory limit of any call. On a Dask cluster of several
    machines, a worker fetches the data once. The memory is free when the handle is gone and no call
    uses it, also if processes are killed.

    Args:
        obj: Any object that can be pickled. What is shared without a copy are the buffers that its
            pickle keeps out of band: those of NumPy's arrays that are contiguous, and of what holds
            such, as pandas and Arrow do. The rest is unpickled in each call, and so is a `bytes`.

    Returns:
        The handle. Its type is not told to type checkers, for which it is in the place of the
        object. `handle.get()` is the object, and `handle.nbytes` its size in bytes.

    Raises:
        TypeError: if the object cannot be pickled.
        OSError: if there is no room in memory, or for another open file.

    Example:
        >>> from dask_limits import limit, share
        >>> numbers = share(list(range(1000)))
        >>> [limit(f, memory="1 GiB")(numbers) for f in (sum, max, len)]
        [499500, 999, 1000]

    Source: PEP 574; memfd_create(2), File Sealing.
    """
    if isinstance(obj, Shared):
        return obj
    buffers: list[memoryview] = []
    sent: dict[int, Any] = {}

    def keep(buffer: pickle.PickleBuffer) -> bool:
        if (raw := payload.large(buffer)) is None:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    pickler = functools.partial(CallPickler, sent=sent, buffer_callback=keep)
    try:
        pickler(file, pickle.HIGHEST_PROTOCOL).dump(obj)
    except Exception as why:
        kind = type(obj).__name__
        raise TypeError(f"{kind} cannot be shared: it cannot be pickled ({say(why)})") from why
    return Shared.of_parts([file.getbuffer(), *buffers], sent)
