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
import sys
import threading
import types
import uuid
import weakref
from collections.abc import Callable
from typing import Any, Final

import cloudpickle

from dask_limits.limits.ipc import reducers

_ids: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()
_main_names: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()
"""What others have sent: its name in the script that it comes from."""
_by_id: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
_numbers: Final = itertools.count()
_home = uuid.uuid4().hex
"""How the ids of what was first sent by this process begin."""


class _Receiver(threading.local):
    """What a thread receives."""

    def __init__(self) -> None:
        self.ids: set[str] = set()  # of what came with the current call
        self.names: dict[str, Any] = {}  # what had a name in its caller's `__main__`
        self.unfilled: dict[int, type] = {}  # classes without their attributes as yet, by `id`


_receiver = _Receiver()


def begin_call(names: dict[str, Any] | None = None) -> None:
    """Begin to receive a call in this thread; what it then pickles is the answer.

    What has a name in the caller's `__main__` is put into `names`, too.
    """
    _receiver.ids = set()
    _receiver.names = {} if names is None else names


class CallPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a call.

    It adds to `sent` what must live until the answer is unpickled: this refers to it.
    """

    dispatch_table = copyreg.dispatch_table  # `reducers` has what cloudpickle adds

    def __init__(
        self, file: Any, protocol: int, *, sent: list[Any] | None = None, **options: Any
    ) -> None:
        # In a process that multiprocessing has spawned, the user's script is the module
        # `__mp_main__`, and cloudpickle would expect it to be importable elsewhere.
        main = sys.modules.get("__mp_main__")
        if main is not None:
            cloudpickle.register_pickle_by_value(main)
        super().__init__(file, protocol, **options)
        self._sent = [] if sent is None else sent
        self._replaceable: set[int] = set()

    def reducer_override(self, obj: Any) -> Any:
        """How to pickle an object; NotImplemented if as the standard pickler does."""
        if type(obj) is types.FunctionType:
            reduced = super().reducer_override(obj)
            return reduced if reduced is NotImplemented else self._function(obj, *reduced)
        if isinstance(obj, type):
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented or len(reduced) == 2:  # by its name
                return reduced
            make, args, state, _, _, fill = reduced
            return self._class(obj, make, reducers.with_slots(obj, args), (fill, state))
        define = reducers.DEFINITIONS.get(type(obj))
        if define is None:
            return reducers.reduce(obj, self._replaceable)
        return NotImplemented if reducers.is_importable(obj) else self._named(obj, *define(obj))

    def _function(
        self, obj: Any, make: Any, args: Any, state: Any, _: None, __: None, fill: Any
    ) -> Any:
        variables, cells = state[1]["__globals__"], state[1]["__closure__"] or ()
        self._replaceable.update(reducers.replaceable(variables, cells))
        return self._named(obj, make, args, state, None, None, fill)

    def _named(self, obj: Any, make: Any, args: Any, *rest: Any) -> Any:
        """A function or the like: it is the caller's own if it can be found by its name."""
        if obj not in _ids and not reducers.name_in_module(obj):
            return make, args, *rest
        self._sent.append(obj)
        return _take, (_id_of(obj), _main_name(obj), make, args), *rest

    def _class(self, cls: type, make: Any, args: Any, filled: Any) -> Any:
        self._sent.append(cls)
        taken = _id_of(cls), _main_name(cls), make, args
        return _take_class, taken, filled, None, None, _fill_class


class AnswerPickler(CallPickler):
    """Pickles the answer to the call that this thread has received."""

    def reducer_override(self, obj: Any) -> Any:
        """How to pickle an object; NotImplemented if as the standard pickler does."""
        kind = type(obj)
        if kind is types.FunctionType or isinstance(obj, type) or kind in reducers.DEFINITIONS:
            known = _ids.get(obj)
            if known in _receiver.ids:
                return _callers, (known, obj.__name__)
        return super().reducer_override(obj)

    def _named(self, obj: Any, make: Any, args: Any, *rest: Any) -> Any:
        return make, args, *rest

    def _class(self, cls: type, make: Any, args: Any, filled: Any) -> Any:
        return _make_class, (_id_of(cls), make, args), filled, None, None, _fill_class


def _id_of(obj: Any) -> str:
    known = _ids.get(obj)
    if known is None:
        known = _ids.setdefault(obj, f"{_home} {next(_numbers)}")
        _by_id[known] = obj
    return known


def _main_name(obj: Any) -> str:
    """The name that an object has in the user's script; empty if none, or in another object."""
    if obj.__module__ not in reducers.MAIN:
        return ""
    name = _main_names.get(obj) or reducers.name_in_module(obj)
    return "" if "." in name else name


# -- what the receiver calls -----------------------------------------------------------------


def _take(known: str, name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Receive a function with a call."""
    obj = _by_id.get(known) if known.startswith(_home) else None
    if obj is None:
        obj = make(*args)
    return _received(obj, known, name)


def _take_class(known: str, name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Receive a class with a call: as its caller has it now, except in the caller itself."""
    cls = _by_id.get(known)
    if cls is None or not known.startswith(_home):
        cls = make(*args) if cls is None else cls
        _receiver.unfilled[id(cls)] = cls
    return _received(cls, known, name)


def _received(obj: Any, known: str, name: str) -> Any:
    _ids[obj] = known
    _by_id[known] = obj
    _receiver.ids.add(known)
    if name:
        _main_names[obj] = name
        _receiver.names[name] = obj
    return obj


def _callers(known: str, name: str) -> Any:
    """Find in an answer what was sent with the call."""
    obj = _by_id.get(known)
    if obj is None:
        raise LookupError(f"{name!r}, which was sent with the call, does not exist any more")
    return obj


def _make_class(known: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Receive a class with an answer: the one that is here, or else a new one."""
    cls = _by_id.get(known)
    if cls is None:
        cls = make(*args)
        _ids[cls] = known
        _receiver.unfilled[id(cls)] = cls
    return cls


def _fill_class(cls: Any, filled: tuple[Callable[[Any, Any], object], Any]) -> None:
    """Set the attributes of a class that is new here, or has come with a call."""
    if _receiver.unfilled.pop(id(cls), None) is not None:
        fill, state = filled
        fill(cls, state)
        _by_id[_ids[cls]] = cls  # only now another thread may find it


def _in_fork() -> None:
    global _home
    _home = uuid.uuid4().hex


os.register_at_fork(after_in_child=_in_fork)
