"""Pickles what calls return and raise, for a process that comes later."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from dask_limits.exceptions import RemoteTraceback
from dask_limits.limits.tracebacks import text_of


class _ExceptionPickler(pickle.Pickler):
    """Pickles exceptions by their own `__reduce__`, whatever other libraries have set up.

    Once `distributed` is imported, tblib would pickle their tracebacks and causes, too.
    """

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, BaseException):
            return obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def dump_value(value: object) -> bytes:
    """Pickle what a call has returned. Raises what the pickling raises."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return _by_value(value)


def dump_error(error: BaseException) -> bytes:
    """Pickle what a call has raised, and the text of its traceback."""
    cause = error.__cause__
    text = cause.text if isinstance(cause, RemoteTraceback) else text_of(error)
    both = io.BytesIO()
    _ExceptionPickler(both, pickle.HIGHEST_PROTOCOL).dump((error, text))
    load_error(both.getvalue())  # many exceptions can be pickled, but not unpickled
    return both.getvalue()


def load_error(pickled: bytes) -> BaseException:
    """What a call has raised, with its traceback as its cause."""
    error, text = pickle.loads(pickled)
    if not isinstance(error, BaseException):
        raise TypeError(f"it was unpickled as an object of type {type(error).__name__}")
    error.__cause__ = RemoteTraceback(text)
    return error


load_value: Callable[[bytes], Any] = pickle.loads
"""What a call has returned."""


def _by_value(value: object) -> bytes:
    import cloudpickle  # 10 ms, for the few that need it

    pickled: bytes = cloudpickle.dumps(value)
    return pickled
