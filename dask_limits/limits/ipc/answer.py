"""What a task process answers for a call."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from dask_limits.limits.breaches import BREACHES
from dask_limits.limits.ipc import messages, payload

_HIGHEST_STATUS: Final = 255
_PARTS: Final = ("arguments", "result", "exception")


class Answer(NamedTuple):
    """How a call ended, by a message of one of the kinds in `messages.ANSWERS`."""

    kind: int
    content: Any
    """As `messages` says: values and exceptions still pickled, and the rest checked; or the error
    for which there is none: this process has no room for it."""


def read(kind: int, head: memoryview, fds: list[int]) -> Answer:
    """Read an answer that was packed. The files may be closed after this.

    Raises:
        LookupError, TypeError, ValueError, struct.error: if it is none of a task process.
    """
    try:
        packed = payload.take(head, fds)
    except (OSError, MemoryError) as why:
        return Answer(kind, why)
    if kind in (messages.RETURNED, messages.RAISED):
        return Answer(kind, packed)
    texts = packed.texts()
    if kind == messages.UNPICKLABLE:
        part, why_not, raised, traceback = texts
        return Answer(kind, (_one_of(_PARTS, part), why_not, raised, traceback))
    (text,) = texts
    if kind == messages.BREACHED:
        return Answer(kind, _one_of(BREACHES, text))
    return Answer(kind, range(_HIGHEST_STATUS + 1)[int(text)])


def _one_of(known: Any, text: str) -> str:
    if text not in known:
        raise ValueError(text)
    return text
