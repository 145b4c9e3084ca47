"""Which versions of the user's modules calls have imported, and whether their owner has others now.

A call runs the code that its owner would run. Where the owner has imported a module, that is what
it has in memory, which a reload changes; otherwise it is what the file of the module says.
"""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import Any, Final, NamedTuple

from dask_limits.limits.task.imports import spec_of

_REST: Final = 25
"""How many times as long as a look at files has taken the next one is put off. So they cost 4 % at
most: a microsecond for each file, as a rule with each call."""
_CLOCK_STEP_NS: Final = 10_000_000
"""By how much the time of a file may be before it was written: kernels count it in steps."""


class Versions:
    """Knows the versions that calls have imported, by the names of modules.

    Attributes:
        changes: How often modules of another version have been found.
        changed: Which change was the last one of a module.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.changed: dict[str, int] = {}
        self._versions: dict[str, Version] = {}
        self._next_look_at_files = 0.0  # seconds of time.monotonic()
        self._searched = _searched_folders()

    def note(self, name: str, file: str, since: int) -> None:
        """A call has imported this module from this file, at some time after `since`.

        That is in nanoseconds since 1970. If the file has been written meanwhile, nobody knows what
        the call has got; nor if another call has found the module elsewhere.
        """
        known = self._versions.get(name)
        if known is not None and known.file == file:
            return
        version = Version.now(name, file)
        if known is not None or version.written_after(since):
            version = version._replace(is_unknown=True)
        self._versions[name] = version

    def find_changed(self) -> set[str]:
        """The modules of which the owner would run another version now. Each is found once."""
        start = time.monotonic()
        at_files = start >= self._next_look_at_files
        found: list[tuple[str, Version]] = []
        changed = set()
        if (searched := _searched_folders()) != self._searched:
            self._searched = searched
            self._find_again()
        for name, version in list(self._versions.items()):
            same_file = not at_files or _state_of(version.file) == version.state
            if same_file and spec_of(name) is version.spec and not version.is_unknown:
                continue
            now = Version.now(name, version.file)
            if version.differs_from(now):
                changed.add(name)
            elif now.spec is version.spec:
                continue  # the owner has not read its file again: look again next time
            found.append((name, now))
        if changed:  # note this first: other threads do not find them any more
            self.changes += 1
            self.changed |= dict.fromkeys(changed, self.changes)
        self._versions |= found
        if at_files:
            now_s = time.monotonic()
            self._next_look_at_files = now_s + _REST * (now_s - start)
        return changed

    def _find_again(self) -> None:
        """Look which modules the owner would find elsewhere now, among those that it has not yet.

        Those in packages have moved with these.
        """
        for name, version in list(self._versions.items()):
            if version.spec is None and "." not in name:
                found = PathFinder.find_spec(name)
                if found is not None and found.has_location and found.origin != version.file:
                    self._versions[name] = version._replace(is_unknown=True)


class Version(NamedTuple):
    """One version of a module."""

    file: str
    spec: object  # in the owner; None if it has not imported the module. A reload makes a new one
    code: tuple[object, ...]  # the same: what a tool changes that reloads functions one by one
    state: tuple[int, ...]  # of the file; empty if there is none
    is_unknown: bool = False

    @classmethod
    def now(cls, name: str, file: str) -> Version:
        """The version of now."""
        return cls(file, spec_of(name), tuple(_code_in(sys.modules.get(name))), _state_of(file))

    def written_after(self, since: int) -> bool:
        """Whether its file was."""
        return bool(self.state) and self.state[0] > since - _CLOCK_STEP_NS

    def differs_from(self, now: Version) -> bool:
        """Whether the owner runs other code now. A file that it has not read again is no matter."""
        if self.is_unknown:
            return True
        if self.spec is None or now.spec is None:
            return self.state != now.state
        return self.spec is not now.spec or (self.state != now.state and self.code != now.code)


def _searched_folders() -> tuple[list[str], str]:
    """Where a module is looked for: the path; an empty entry means the directory."""
    try:
        return sys.path.copy(), os.getcwd() if "" in sys.path else ""
    except OSError:  # it has been removed
        return sys.path.copy(), ""


def _state_of(file: str) -> tuple[int, ...]:
    """What changes with the contents of a file, or of the archive that it is in."""
    try:
        status = os.stat(file)
    except NotADirectoryError:
        return _state_of(os.path.dirname(file))
    except OSError:
        return ()
    return status.st_ctime_ns, status.st_ino, status.st_size


def _code_in(module: types.ModuleType | None) -> Iterator[object]:
    """The code of the functions of a module and of its classes, and its constants."""
    for value in list(vars(module).values()) if isinstance(module, types.ModuleType) else ():
        if isinstance(value, type):
            yield from map(_code_of, list(vars(value).values()))
        else:
            yield _code_of(value)


def _code_of(value: Any) -> object:
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if isinstance(value, types.FunctionType):
        return value.__code__
    return value if type(value) in (str, bytes, int, float) else None
