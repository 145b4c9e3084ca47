"""Pickles functions and classes that the receiver cannot import, such as those of `__main__`.

cloudpickle sends their definitions, and the receiver makes copies. Here each has an id as well, so
that a call's answer refers to the very function or class that its caller has sent, and the caller
gets instances of its own classes back. A definition in an answer never changes a class that the
caller has: what a call does to its copies stays in its process.

Source: https://github.com/cloudpipe/cloudpickle, whose pickler this extends.
"""

from __future__ import annotations

import copyreg
import itertools
import os
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, Final

import cloudpickle

from dask_limits.limits.interrupted import is_by_signal
from dask_limits.limits.ipc import reducers
from dask_limits.limits.ipc.payload import Packed
from dask_limits.limits.shared import Shared
from dask_limits.limits.tracebacks import say

_BY_NAME: Final = {__name__, reducers.__name__, "cloudpickle.cloudpickle"}
"""Modules whose functions the receiver has: to ask cloudpickle takes 2 us for each."""
_class_ids: Final[weakref.WeakKeyDictionary[type, int]] = weakref.WeakKeyDictionary()
_classes: Final[weakref.WeakValueDictionary[int, type]] = weakref.WeakValueDictionary()
_kept: Final[dict[int, type]] = {}  # those that no call forgets
_NUMBER_BITS: Final = 40
_numbers: Final = itertools.count()


def _random_id() -> int:
    return int.from_bytes(os.urandom(8)) >> 4


_home = _random_id()  # the other bits of the ids that this process gives


class _Receiver(threading.local):
    """What a thread receives."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}  # what had a name in its caller's `__main__`
        self.taken: dict[int, Any] = {}  # what came with the current call, by id
        self.known: dict[int, tuple[int, str]] = {}  # the same: id and name, by `id(...)`
        self.sent: dict[int, Any] = {}  # what answers may refer to, by id
        self.unfilled: dict[int, type] = {}  # classes without their attributes as yet, by `id(...)`


_receiver = _Receiver()


class Receiving:
    """A context in which this thread unpickles a call and pickles its answer.

    What has a name in the caller's `__main__` is put into `names`, too.
    """

    def __init__(self, names: dict[str, Any] | None = None) -> None:
        self._names = {} if names is None else names

    def __enter__(self) -> None:
        self._before = _receiver.names, _receiver.taken, _receiver.known
        _receiver.names, _receiver.taken, _receiver.known = self._names, {}, {}

    def __exit__(self, *_: object) -> None:
        _receiver.names, _receiver.taken, _receiver.known = self._before


def received() -> list[Any]:
    """The functions and classes that have come with the current call."""
    return list(_receiver.taken.values())


def forget_classes() -> None:
    """Make the next call receive classes of its own, whatever others have done to theirs."""
    if len(_class_ids) == len(_kept):
        return
    _classes.clear()
    _class_ids.clear()
    with cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()
        cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.clear()
    _classes.update(_kept)
    _class_ids.update({cls: known for known, cls in _kept.items()})


def keep_classes() -> None:
    """Make all calls receive the classes that this process has by now, as they are."""
    _kept.update(_classes)


def names_in(call: bytes) -> dict[str, Any]:
    """Unpickle a call, for what it brings from its caller's `__main__`."""
    names: dict[str, Any] = {}
    with Receiving(names):
        pickle.loads(call)
    return names


def load_answer(answer: Packed, sent: dict[int, Any]) -> Any:
    """Unpickle the answer to a call that has `sent` this."""
    before, _receiver.sent = _receiver.sent, sent
    try:
        return answer.load()
    finally:
        _receiver.sent = before


class CallPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a call. What it has `sent` by value, by ids, is needed to unpickle the answer."""

    dispatch_table = copyreg.dispatch_table  # `reducers` has what cloudpickle adds

    def __init__(
        self, file: Any, protocol: int, *, sent: dict[int, Any] | None = None, **options: Any
    ) -> None:
        # In a process that multiprocessing has spawned, the user's script is the module
        # `__mp_main__`, and cloudpickle would expect it to be importable elsewhere.
        main = sys.modules.get("__mp_main__")
        if main is not None:
            cloudpickle.register_pickle_by_value(main)
        super().__init__(file, protocol, **options)
        self._sent = {} if sent is None else sent
        self._ordinary: set[type] = set()  # types of objects that the standard pickler pickles
        self._replaceable: set[int] = set()  # locks that the receiver may make anew, by `id(...)`

    def dump(self, obj: Any) -> None:
        """Pickle an object. Whatever its own code raises, even SystemExit, is an Exception here."""
        try:
            super().dump(obj)
        except Exception:
            raise
        except BaseException as why:
            if is_by_signal(why):
                raise
            raise pickle.PicklingError(say(why)) from why

    def reducer_override(self, obj: Any) -> Any:
        """How to pickle an object; NotImplemented if as the standard pickler does."""
        kind = type(obj)
        if kind in self._ordinary:
            return NotImplemented
        if kind is types.FunctionType:
            return NotImplemented if obj.__module__ in _BY_NAME else self._function(obj)
        if issubclass(kind, type):
            return self._class(obj)
        if (define := reducers.DEFINITIONS.get(kind)) is not None:
            return NotImplemented if reducers.is_importable(obj) else self._named(obj, define(obj))
        if kind is Shared:
            self._sent.update(obj.sent)
            return NotImplemented
        if (reduce := reducers.of(kind)) is not None:
            return reduce(obj)
        if (replace := reducers.OF_THIS_PROCESS.get(kind)) is not None:
            return replace(obj) if id(obj) in self._replaceable else NotImplemented
        self._ordinary.add(kind)
        return NotImplemented

    def _function(self, function: types.FunctionType) -> Any:
        reduced = super().reducer_override(function)
        if reduced is NotImplemented:
            return reduced
        for reduce in reducers.DECORATED:
            if (by_name := reduce(function)) is not None:
                return by_name
        variables = reduced[2][1]["__globals__"]
        self._replaceable.update(reducers.replaceable(variables, function.__closure__ or ()))
        return self._named(function, reduced)

    def _named(self, obj: Any, reduced: Any) -> Any:
        """A function or the like: it is the caller's own if it can be found by its name."""
        known, name = _receiver.known.get(id(obj)) or (None, _name(obj))
        if name is None:
            return reduced
        known = known or _new_id()
        self._sent[known] = obj
        make, args, *rest = reduced
        return _take, (known, name, make, args), *rest

    def _class(self, cls: type) -> Any:
        reduced = super().reducer_override(cls)
        if reduced is NotImplemented or len(reduced) == 2:  # by its name
            return reduced
        make, args, state, _, _, fill = reduced
        known, name = _receiver.known.get(id(cls)) or (_id_of_class(cls), _name(cls) or "")
        self._sent[known] = cls
        taken = known, name, make, reducers.with_slots(cls, args)
        return _take_class, taken, (fill, state), None, None, _fill_class


class AnswerPickler(CallPickler):
    """Pickles the answer to the call that this thread has received."""

    def _function(self, function: types.FunctionType) -> Any:
        return self._callers(function) or super()._function(function)

    def _class(self, cls: type) -> Any:
        if (callers := self._callers(cls)) is not None:
            return callers
        reduced = super()._class(cls)
        if reduced is NotImplemented or len(reduced) == 2:
            return reduced
        _, (known, _, make, args), *rest = reduced
        return _make_class, (known, make, args), *rest

    def _named(self, obj: Any, reduced: Any) -> Any:
        return self._callers(obj) or reduced

    def _callers(self, obj: Any) -> Any:
        known = _receiver.known.get(id(obj))
        return None if known is None else (_callers, (known[0], obj.__name__))


def _new_id() -> int:
    return _home << _NUMBER_BITS | next(_numbers)


def _id_of_class(cls: type) -> int:
    known = _class_ids.get(cls)
    if known is None:
        known = _class_ids.setdefault(cls, _new_id())
        _classes[known] = cls
    return known


def _name(obj: Any) -> str | None:
    """The name of an object in the user's script; empty if in another module, None if nowhere."""
    name = reducers.name_in_module(obj)
    if not name:
        return None
    return name if obj.__module__ in reducers.MAIN and "." not in name else ""


# -- what the receiver calls -----------------------------------------------------------------


def _take(known: int, name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Receive a function with a call."""
    return _taken(make(*args), known, name)


def _take_class(known: int, name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Receive a class with a call: as its caller has it now, except in the caller itself.

    One that the initializer has received stays as that has left it.
    """
    cls = _classes.get(known)
    if cls is None or (known >> _NUMBER_BITS != _home and known not in _kept):
        cls = make(*args) if cls is None else cls
        _class_ids[cls] = known
        _receiver.unfilled[id(cls)] = cls
    return _taken(cls, known, name)


def _taken(obj: Any, known: int, name: str) -> Any:
    _receiver.taken[known] = obj
    _receiver.known[id(obj)] = known, name
    if name:
        _receiver.names[name] = obj
    return obj


def _callers(known: int, name: str) -> Any:
    """Find in an answer what was sent with the call."""
    for things in (_receiver.sent, _receiver.taken):
        if known in things:
            return things[known]
    raise LookupError(f"this process has not sent {name!r} with the call")


def _make_class(known: int, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Receive a class with an answer: the one that is here, or else a new one."""
    cls = _classes.get(known)
    if cls is None:
        cls = make(*args)
        _class_ids[cls] = known
        _receiver.unfilled[id(cls)] = cls
    return cls


def _fill_class(cls: Any, filled: tuple[Callable[[Any, Any], object], Any]) -> None:
    """Set the attributes of a class that is new here, or has come with a call."""
    if _receiver.unfilled.pop(id(cls), None) is not None:
        fill, state = filled
        fill(cls, state)
        _classes[_class_ids[cls]] = cls  # only now another thread may find it


def _in_fork() -> None:
    global _home
    _home = _random_id()


os.register_at_fork(after_in_child=_in_fork)
