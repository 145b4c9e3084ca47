from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

from dask_limits.exceptions import CallPicklingError
from dask_limits.limits.in_place import name_of
from dask_limits.limits.ipc import messages, payload
from dask_limits.limits.ipc.payload import Payload
from dask_limits.limits.limits import Limits
from dask_limits.limits.tracebacks import say, text_of


def new_pickler(file: Any, protocol: int, **options: Any) -> Any:
    """A pickler for anything that can be pickled; functions of `__main__` and closures too."""
    # In a worker that multiprocessing has spawned, the user's script is a module `__mp_main__`,
    # which cloudpickle would take for one that can be imported elsewhere.
    main = sys.modules.get("__mp_main__")
    if main is not None:
        cloudpickle.register_pickle_by_value(main)
    return cloudpickle.Pickler(file, protocol, **options)


def dumps(thing: object) -> bytes:
    """Pickle anything that can be, into bytes."""
    buffer = io.BytesIO()
    new_pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


def pack(thing: object) -> Payload:
    """Pack an object to be sent; by value where the plain way, by name, does not do.

    Raises:
        Exception: if it cannot be pickled in any way.
    """
    try:
        return payload.pack(thing, pickle.Pickler)
    except Exception:
        return payload.pack(thing, new_pickler)


def pack_returned(value: object) -> tuple[int, Payload]:
    """Pack what a call has returned.

    Returns:
        The kind of end, one of those in `messages`, and what goes with it.
    """
    try:
        return messages.RETURNED, pack(value)
    except BaseException as why:
        return pack_unpicklable("result", why)


def pack_raised(error: BaseException) -> tuple[int, Payload]:
    """Pack what a call has raised, with the text of its traceback; as `pack_returned`."""
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
    """Pack that a part of a call cannot be pickled or unpickled; as `pack_returned`.

    Args:
        part: Which: "arguments", "result" or "exception".
        why: The error of the pickler.
        what: What the call has raised, if it has.
        text: The traceback of that.
    """
    return messages.UNPICKLABLE, pack((part, say(why), what, text or text_of(why)))


def without_history(error: BaseException) -> BaseException:
    """The same exception without its traceback and those that led to it, for its way elsewhere.

    They travel as text. As objects they would too once `distributed` is imported, for it has
    tblib register how all exceptions are pickled, and the way would fail if one of them holds
    what cannot be: `get_worker()` raises its ValueError over a LookupError with a ContextVar.
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
    """The error of a call that cannot be sent, which names the part that is at fault."""
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
            return f"{words}, a {type(value).__name__},"
    return "one of its arguments"
