"""Reads what comes on the socket of a task process.

The calls of that process have its end of the socket too, so anything may come. It is read here
before anything is done with it. What calls return or raise stays pickled; of the rest, nothing can
run code. Verdicts are sent by the same end, but with a key that only the guardian has.
"""

from __future__ import annotations

import math
import pickle
import struct
from typing import Final, NamedTuple, TypeAlias

from dask_limits.limits.ipc import answer, messages
from dask_limits.limits.ipc.answer import Answer
from dask_limits.limits.ipc.messages import Account, Verdict
from dask_limits.limits.ipc.transport import Message
from dask_limits.limits.task import imports

_WRONG: Final = (ArithmeticError, LookupError, TypeError, ValueError, struct.error)


class MalformedError(Exception):
    """None of our processes sends this: a call has written to the socket of its process."""


class Ended(NamedTuple):
    """How a call ended, as its task process says."""

    account: Account
    answer: Answer


class Unbegun(NamedTuple):
    """The process has not begun the call of this number, nor those after it in its request."""

    number: int


End: TypeAlias = Ended | Verdict | Unbegun
Modules: TypeAlias = dict[str, str | None]


def looked_for(end: End) -> list[str]:
    """The modules that a call had imported, or was about to, when it was ended.

    None if they may have started processes without end, or used up the memory of this machine:
    in a template they would do so again, without a limit.
    """
    if not isinstance(end, Verdict) or end.cause == "num_processes" or end.system_memory:
        return []
    names = end.looked_for.split("\n")
    return [name for name in names if all(part.isidentifier() for part in name.split("."))]


def read(message: Message, key: bytes) -> End | Modules:
    """Read a message.

    Raises:
        MalformedError: if it is not as its kind says, or of no kind that comes here, or a verdict
            without the `key` of the guardian.
    """
    kind, number, body, fds = message
    try:
        if kind in messages.ANSWERS:
            account = Account(*messages.ACCOUNT.unpack_from(body))
            if not (min(account) >= 0 and sum(account) < math.inf):
                raise ValueError(account)
            return Ended(account, answer.read(kind, body[messages.ACCOUNT.size :], fds))
        if kind in (messages.IMPORTED, messages.PREPARED_IMPORTS):
            return imports.parse(body)
        if kind == messages.SKIPPED:
            return Unbegun(number)
        if kind not in (messages.VERDICT, messages.UNBEGUN):
            raise ValueError(kind)
        if body[: len(key)] != key:
            raise ValueError("this is no verdict of the guardian")
        return pickle.loads(body[len(key) :]) if kind == messages.VERDICT else Unbegun(number)
    except _WRONG as why:
        raise MalformedError(f"a message of kind {kind} with {len(body)} bytes") from why
