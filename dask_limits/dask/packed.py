"""A call and its outcome as bytes, for their way through Dask.

Bytes, because whatever they pass need not be able to read them: the scheduler imports nothing for
them, nor does a worker that only hands a call on to a task process; and one result that cannot be
read on arrival spoils no other that travels with it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from dask_limits.exceptions import CallPicklingError, RemoteTraceback
from dask_limits.limits import LimitedCall, Outcome, run_in_place
from dask_limits.limits.ipc import pickling
from dask_limits.limits.tracebacks import say, text_of


@dataclass(frozen=True)
class PackedCall:
    """A function and its arguments as bytes; called, it calls the function.

    Attributes:
        name: The name of the function.
        data: The bytes.
    """

    name: str
    data: bytes

    @property
    def __name__(self) -> str:  # what `name_of` looks for
        return self.name

    def __call__(self, put_in: Sequence[Any]) -> Any:
        """Call the function.

        Args:
            put_in: What comes in the places of what `pack_call` left out, in the same order.
        """
        unpickler = _Unpickler(io.BytesIO(self.data))
        unpickler.put_in = put_in
        fn, args, kwargs = unpickler.load()
        return fn(*args, **kwargs)


def pack_call(
    call: LimitedCall[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], leave_out: type
) -> tuple[PackedCall, list[Any]]:
    """Put a call into bytes; its limits stay behind.

    Args:
        call: The function.
        args: Positional arguments.
        kwargs: Keyword arguments.
        leave_out: Objects of this type do not travel, wherever among the arguments they are:
            others take their places when the call runs. Such are futures of earlier tasks.

    Returns:
        The call, and the objects that were left out.

    Raises:
        CallPicklingError: if the function or an argument cannot be pickled.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.leave_out, pickler.left_out = leave_out, []
    try:
        pickler.dump((call.fn, args, kwargs))
    except Exception as why:
        raise pickling.unpicklable_arguments(call.fn, args, kwargs, call.limits, why) from why
    return PackedCall(call.name, buffer.getvalue()), pickler.left_out


def run_packed(call: PackedCall, put_in: Sequence[Any]) -> bytes:
    """Run a call in this thread. What Dask takes for the function of each task of ours.

    The "limits" executor knows it, and runs the call in a task process instead.

    Returns:
        Its outcome, for `unpack_outcome`.
    """
    return pack_outcome(run_in_place(call, (put_in,), {}), call.name)


def pack_outcome(outcome: Outcome[Any], name: str) -> bytes:
    """An outcome as bytes; its usage apart, so that it can be read whatever the rest is.

    Args:
        outcome: What came of a call.
        name: What the call was called.
    """
    text = _remote_text(outcome.exception)
    try:
        body = _pack_end(outcome, text)
    except Exception as why:
        end = f"result, a {type(outcome.value).__qualname__}," if outcome.ok else "exception"
        outcome = _unreadable(outcome, name, f"its {end} cannot be pickled: {say(why)}")
        body = _pack_end(outcome, text)
    return pickle.dumps((outcome.usage, outcome.ok, name, body), pickle.HIGHEST_PROTOCOL)


def unpack_outcome(data: bytes) -> Outcome[Any]:
    """What `pack_outcome` was given; if it cannot be read here, an outcome that says so."""
    usage, ok, name, body = pickle.loads(data)
    try:
        value, exception, text = pickle.loads(body)
    except Exception as why:
        unread = Outcome[Any](usage=usage, exception=None if ok else why)
        end = "result" if ok else "exception"
        return _unreadable(unread, name, f"its {end} cannot be rebuilt here: {say(why)}")
    if text:
        exception.__cause__ = RemoteTraceback(text)
    return Outcome(usage=usage, value=value, exception=exception)


def _pack_end(outcome: Outcome[Any], text: str) -> bytes:
    if (error := outcome.exception) is not None:
        pickling.without_history(error)
    packed: bytes = cloudpickle.dumps((outcome.value, error, text), pickle.HIGHEST_PROTOCOL)
    if error is not None:
        pickle.loads(packed)  # many exceptions can be pickled, but not unpickled
    return packed


def _unreadable(outcome: Outcome[Any], name: str, what: str) -> Outcome[Any]:
    part = "result" if outcome.ok else "exception"
    error = CallPicklingError(f"{name}(): {what}", part=part, call=name, usage=outcome.usage)
    if outcome.exception is not None and outcome.exception.__traceback__ is not None:
        error.__cause__ = RemoteTraceback(text_of(outcome.exception))
    return Outcome(usage=outcome.usage, exception=error)


def _remote_text(error: BaseException | None) -> str:
    """The traceback of an exception where the call ran; empty if there is none."""
    if error is None:
        return ""
    if isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__.text
    return text_of(error) if error.__traceback__ is not None else ""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    leave_out: type
    left_out: list[Any]

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, self.leave_out):
            return None
        self.left_out.append(obj)
        return len(self.left_out) - 1


class _Unpickler(pickle.Unpickler):
    put_in: Sequence[Any]

    def persistent_load(self, index: int) -> Any:
        return self.put_in[index]
