"""A call that is pickled once, for its way through Dask.

What passes it on need not be able to unpickle it: the scheduler imports nothing for it, nor does a
worker that only hands a call on to a task process. Nor is its data copied there. Its outcome
travels back likewise, as a `PackedOutcome`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dask_limits.in_short import arguments_in_short
from dask_limits.limits import LimitedCall, trace_context
from dask_limits.limits.ipc import by_value, pickling
from dask_limits.limits.ipc.payload import Packed
from dask_limits.limits.owner.recurring import LEAST, recurring
from dask_limits.limits.owner.use import function_key
from dask_limits.limits.shared import Shared
from dask_limits.limits.task import script_globals


@dataclass(frozen=True)
class PackedCall:
    """A function and its arguments, pickled; called, it calls the function.

    Calls of one function have the same key. The arguments in short are for those who
    cannot unpickle them.
    """

    name: str
    data: Packed
    function_key: Hashable
    arguments: str = ""

    @property
    def __name__(self) -> str:  # what `name_of` looks for
        return self.name

    def __call__(self, put_in: Sequence[Any]) -> Any:
        """Call the function, with these in the places of what `pack_call` left out."""
        unpickler = _Unpickler(io.BytesIO(self.data.pickled), buffers=self.data.buffers(put_in))
        unpickler.put_in = put_in
        fn, args, kwargs, *carrier = unpickler.load()
        script_globals.give(fn)
        with trace_context.attached(*carrier):
            return fn(*args, **kwargs)


def pack_call(
    call: LimitedCall[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leave_out: tuple[type, ...],
) -> tuple[PackedCall, list[Any], dict[int, Any]]:
    """Pickle a call as it is now; its limits stay behind.

    Objects of the types `leave_out` do not travel, wherever among the arguments they are: others
    take their places when the call runs. Such are futures of earlier tasks, and what calls share.
    Nor do large buffers that come again: calls share a copy. What was left out is returned too, and
    what is needed to unpack the outcome.

    Raises:
        CallPicklingError: if the function or an argument cannot be pickled.
    """
    left_out: list[Any] = []
    sent: dict[int, Any] = {}
    carrier = trace_context.carrier()
    thing = (call.fn, args, kwargs) if carrier is None else (call.fn, args, kwargs, carrier)
    try:
        new_pickler = partial(_Pickler, leave_out, left_out, sent=sent)
        data = Packed.of(thing, new_pickler, partial(_leave_out, left_out))
    except Exception as why:
        raise pickling.unpicklable_arguments(call.fn, args, kwargs, call.limits, why) from why
    in_short = arguments_in_short(args, kwargs, quick=True)
    packed = PackedCall(call.name, data, hash(function_key(call.fn)), in_short)
    return packed, left_out, sent


def _leave_out(left_out: list[Any], raw: memoryview, *, as_bytes: bool = False) -> int | None:
    """Leave out a buffer that has come before; None if it has not."""
    if (found := recurring.find(raw, as_bytes=as_bytes)) is None:
        return None
    left_out.append(found)
    return len(left_out) - 1


class _Pickler(by_value.CallPickler):
    def __init__(
        self, leave_out: tuple[type, ...], left_out: list[Any], *to: Any, **options: Any
    ) -> None:
        super().__init__(*to, **options)
        self._leave_out = leave_out
        self._left_out = left_out

    def persistent_id(self, obj: object) -> int | None:
        if type(obj) is bytes and len(obj) >= LEAST:
            return _leave_out(self._left_out, memoryview(obj), as_bytes=True)
        if not isinstance(obj, self._leave_out):
            return None
        if isinstance(obj, Shared):
            self._sent.update(obj.sent)
        self._left_out.append(obj)
        return len(self._left_out) - 1


class _Unpickler(pickle.Unpickler):
    put_in: Sequence[Any]

    def persistent_load(self, index: int) -> Any:
        return self.put_in[index]
