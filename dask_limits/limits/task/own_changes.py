"""Tells which modules a call has imported after changes of its own that these may depend on.

A function sets a variable, a path or an import hook, and then imports what reads it. In a process
that has imported this ahead, it would have no effect.

All others are noted when their import begins, where the guardian finds them if the call is ended.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from dask_limits.limits.task import imports


class OwnChanges:
    """Looks for changes of the environment and the like when a module is looked for.

    It finds no module itself. What an installed module changes while it is imported does not count:
    it does so wherever it is imported. If it imports nothing after that, the next import seems to
    come after a change of the call's; but not in processes that have imported this module ahead.

    `note` is called with the name of each module that this process imports before such a change.

    Attributes:
        has_looked: Whether the call has looked for a module.
    """

    def __init__(self, note: Callable[[bytes], None]) -> None:
        sys.meta_path.insert(0, self)
        self._note = note
        self._pid = os.getpid()
        self._is_prepared_otherwise = False
        self.begin_call()

    def end_preparation(self) -> None:
        """Take what the initializer has changed for a change of each call's own."""
        self.find_spec("", None)
        self._is_prepared_otherwise = self._before is not None
        self.begin_call()

    def begin_call(self) -> None:
        """Compare with the state of now."""
        self.has_looked = False
        self._seen = _state_here()
        # What was imported before the first change.
        self._before = set(sys.modules) if self._is_prepared_otherwise else None

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Look for changes. 3 us."""
        self.has_looked = True
        if self._before is not None:
            return
        caller = sys._getframe(1)
        if (now := _state_here(self._seen)) is not self._seen:
            if not _is_in_installed_module(caller):
                self._before = set(sys.modules)
                return
            self._seen = now
        if _is_import(caller) and os.getpid() == self._pid:
            self._note(fullname.encode(errors="ignore"))

    def imported_after(self, names: Iterable[str]) -> set[str]:
        """Those of these modules that the call has imported after changes of its own."""
        return set() if self._before is None else {*names} - self._before


def _state_here(known: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """What modules commonly depend on when they are imported; `known` if it is the same."""
    try:
        directory = os.getcwd()
    except OSError:  # it has been removed
        directory = ""
    environment = getattr(os.environ, "_data", os.environ)  # see Setting
    now: tuple[Any, ...] = directory, environment, sys.path, sys.meta_path, sys.path_hooks
    if now == known:
        return known
    return directory, dict(environment), *map(list, now[2:])


def _is_import(frame: types.FrameType) -> bool:
    """Whether this looks for a module to import it. `importlib.util.find_spec` only asks for it."""
    return frame.f_back is not None and frame.f_back.f_globals is frame.f_globals


def _is_in_installed_module(frame: types.FrameType | None) -> bool:
    """Whether this is done while a module is imported that is not the user's."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and not imports.is_users(frame.f_code.co_filename):
            spec = frame.f_globals.get("__spec__")
            if getattr(spec, "_initializing", False):
                return True
        frame = frame.f_back
    return False
