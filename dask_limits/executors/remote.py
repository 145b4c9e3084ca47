"""A call and its outcome on their way through an executor that is not ours."""

from __future__ import annotations

import pickle
from typing import Any

from dask_limits.dask.packed import pack_outcome
from dask_limits.limits import LimitedCall, run_call
from dask_limits.limits.ipc import pickling


def pack_call(call: LimitedCall[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Put a call into bytes; functions of `__main__`, lambdas and closures too.

    Raises:
        CallPicklingError: if something in it cannot be pickled. Its text says what.
    """
    try:
        return pickling.dumps((call, args, kwargs))
    except Exception as error:
        raise pickling.unpicklable_arguments(call.fn, args, kwargs, call.limits, error) from error


def run_packed_call(packed: bytes) -> bytes:
    """Run a packed call where it has arrived.

    Returns:
        Its outcome, for `dask_limits.dask.packed.unpack_outcome`.
    """
    call, args, kwargs = pickle.loads(packed)
    return pack_outcome(run_call(call, args, kwargs), call.name)
