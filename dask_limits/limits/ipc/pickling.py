from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dask_limits.limits.in_place import name_of
from dask_limits.limits.ipc import messages, payload
from dask_limits.limits.ipc.by_value import AnswerPickler, CallPickler
from dask_limits.limits.ipc.payload import Payload
from dask_limits.limits.limits import Limits
from dask_limits.limits.tracebacks import say, text_of

if TYPE_CHECKING:
    from dask_limits.exceptions import CallPicklingError

_PLAIN: Final = {type(None), bool, int, float, str, bytes}
"""Types whose objects the standard pickler pickles, and sooner by 3 us."""


def dumps(call: object, sent: dict[int, Any] | None = None) -> bytes:
    """Pickle a call into bytes. See `CallPickler` for `sent`."""
    buffer = io.BytesIO()
    CallPickler(buffer, pickle.HIGHEST_PROTOCOL, sent=sent).dump(call)
    return buffer.getvalue()


def pack(answer: object) -> Payload:
    """Pack the answer to the call that this thread has begun."""
    return payload.pack(answer, pickle.Pickler if type(answer) in _PLAIN else AnswerPickler)


def pack_returned(value: object) -> tuple[int, Payload]:
    """Pack the value that a call returned: the kind of answer, and its payload."""
    try:
        return messages.RETURNED, pack(value)
    except BaseException as why:
        return pack_unpicklable("result", why)


def pack_raised(error: BaseException) -> tuple[int, Payload]:
    """Pack the exception that a call raised, with the text of its traceback."""
    text = text_of(error)
    try:
        packed = pack((without_history(error), text))
        # many exceptions can be pickled, but not unpickled
        payload.unpack(memoryview(packed.head), list(packed.fds))
    except BaseException as why:
        return pack_unpicklable("exception", why, say(error), text)
    return messages.RAISED, packed


def pack_unpicklable(
    part: str, why: BaseException, what: str = "", text: str = ""
) -> tuple[int, Payload]:
    """Pack the report that a part of a call ("arguments", "result", "exception") cannot be pickled.

    `what` is the exception that the call raised, if any, and `text` its traceback.
    """
    return messages.UNPICKLABLE, payload.pack_texts(part, say(why), what, text or text_of(why))


def without_history(error: BaseException) -> BaseException:
    """Remove the traceback, cause and context of an exception, before it is pickled.

    They are sent as text. Once `distributed` is imported, tblib would pickle them as objects too,
    and fail if one of them cannot be pickled: `get_worker()` raises a ValueError from a LookupError
    that holds a ContextVar.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            without_history(part)
    return error


def unpicklable_arguments(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    limits: Limits,
    why: Exception,
) -> CallPicklingError:
    """The error of a call that cannot be pickled. It names the part at fault."""
    from dask_limits.exceptions import CallPicklingError  # pynisher is not for task processes

    name = name_of(fn)
    error = CallPicklingError(
        f"{name}() cannot be sent: {_culprit(fn, args, kwargs)} cannot be pickled ({say(why)})",
        part="arguments",
        call=name,
        limits=limits,
    )
    error.__cause__ = why
    return error


def _culprit(fn: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Which part of a call cannot be pickled, in words."""
    parts = [("the function", fn)]
    parts += [(f"argument {n}", value) for n, value in enumerate(args, 1)]
    parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for words, value in parts:
        try:
            dumps(value)
        except Exception:
            return f"{words} ({type(value).__name__})"
    return "one of its arguments"
