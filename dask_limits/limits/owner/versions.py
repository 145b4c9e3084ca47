"""Which versions of modules calls have imported, and whether they would import others now.

A call runs what a new process would import: what is found on its owner's path, as its file says.
What the owner itself has in memory may be older, until it reloads it.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from importlib.machinery import PathFinder
from typing import Any, Final, NamedTuple, TypeAlias

from dask_limits.limits.task.imports import is_users, namespace_of, package_of, spec_of

_REST: Final = 25
"""How many times as long as a look at files has taken the next one is put off. So they cost 4 % at
most: a microsecond for each file, as a rule with each call."""
_MOST_TRIES: Final = 100
_CLOCK_STEP_NS: Final = 10_000_000
"""By how much the time of a file may be before it was written: kernels count it in steps."""

Folders: TypeAlias = tuple[list[str], str]
"""Where modules are looked for: the path, and the directory that an empty entry of it means."""


class Versions:
    """Knows the versions that calls have imported, by the names of modules.

    Attributes:
        changes: How often modules of another version have been found.
        changed: Which change was the last one of a module or package.
        folders: Where the owner looked for modules at the last look at changes.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.changed: dict[str, int] = {}
        self.folders = _folders_here()
        self._packages: set[str] = set()
        self._versions: dict[str, Version] = {}
        self._next_look_at_files = 0.0  # seconds of time.monotonic()
        self._noted = 0  # how often versions were noted that may have to be looked at
        self._looked_at: tuple[int, list[_Seen]] = 0, []  # `_noted` before it, and what was seen

    def note(self, modules: dict[str, str | None], since: int, folders: Folders) -> set[str]:
        """A process has imported these modules at some time after `since`, from these folders.

        That is in nanoseconds since 1970. Of modules that may change, the file is given. Returns
        the packages that would be found elsewhere by now.
        """
        packages = set(map(package_of, modules))
        moved = _find_moved(packages, folders, self.folders)
        self._packages |= packages
        for name, file in modules.items():
            if file:
                self._note_file(name, file, since)
        self._note_moved(moved)
        return moved

    def _note_file(self, name: str, file: str, since: int) -> None:
        """If it has been written meanwhile, nobody knows what the process has got.

        Nor if another process has found the module elsewhere.
        """
        known = self._versions.get(name)
        if known is not None and known.file == file:
            return
        version = Version.now(name, file)
        if known is not None or version.written_after(since):
            version = version._replace(is_unknown=True)
        self._versions[name] = version
        self._noted += 1

    def find_changed(self) -> set[str]:
        """The modules and packages of which calls would import another version now.

        Each is found once.
        """
        start = time.monotonic()
        at_files = start >= self._next_look_at_files
        folders = _folders_here()
        moved = _find_moved(self._packages, self.folders, folders)
        self._note_moved(moved)
        self.folders = folders
        noted, seen = self._looked_at
        if not at_files and noted == self._noted and _are_same(seen):
            return moved
        return moved | self._look_at(start, at_files)

    def _look_at(self, start: float, at_files: bool) -> set[str]:
        """Look at each module that has another spec, may have another version, or has a file."""
        noted, found, changed = self._noted, [], set()
        seen = list(map(_Seen.now, list(self._versions)))
        for name, version in list(self._versions.items()):
            if not at_files and not version.is_unknown and spec_of(name) is version.spec:
                continue
            now = Version.now(name, version.file)
            if version.is_unknown or now.state != version.state:
                changed.add(name)
            elif now.spec is version.spec:
                continue
            found.append((name, now))
        self._note_changed(changed)  # first: other threads do not find them any more
        self._versions |= found
        self._looked_at = noted, seen
        if at_files:
            now_s = time.monotonic()
            self._next_look_at_files = now_s + _REST * (now_s - start)
        return changed

    def _note_moved(self, packages: set[str]) -> None:
        self._note_changed(packages)
        if packages:  # what calls find next is no change
            for name in list(self._versions):
                if package_of(name) in packages:
                    self._versions.pop(name, None)
                    self._noted += 1

    def _note_changed(self, names: set[str]) -> None:
        if names:
            self.changes += 1
            self.changed |= dict.fromkeys(names, self.changes)


class _Seen(NamedTuple):
    """A module of the owner; None if it has not imported it."""

    name: str
    module: object
    namespace: dict[str, Any]
    spec: object

    @classmethod
    def now(cls, name: str) -> _Seen:
        """That of now."""
        module = sys.modules.get(name)
        namespace = namespace_of(module)
        return cls(name, module, namespace, namespace.get("__spec__"))


class Version(NamedTuple):
    """One version of a module."""

    file: str
    state: tuple[int, ...]  # of the file; empty if there is none
    spec: object  # in the owner. A reload makes a new one: then the file has changed, as a rule
    is_unknown: bool = False

    @classmethod
    def now(cls, name: str, file: str) -> Version:
        """The version of now."""
        return cls(file, _state_of(file), spec_of(name))

    def written_after(self, since: int) -> bool:
        """Whether its file was."""
        return bool(self.state) and self.state[0] > since - _CLOCK_STEP_NS


def _folders_here() -> Folders:
    try:
        return sys.path.copy(), os.getcwd() if "" in sys.path else ""
    except OSError:  # it has been removed
        return sys.path.copy(), ""


def _find_moved(packages: set[str], before: Folders, now: Folders) -> set[str]:
    """Those of these packages that are found elsewhere now. 20 us for each."""
    if before == now:
        return set()
    _invalidate_caches()
    return {name for name in packages.copy() if _place_of(name, before) != _place_of(name, now)}


def _invalidate_caches() -> None:
    for _ in range(_MOST_TRIES):
        try:
            importlib.invalidate_caches()
        except KeyError:  # another thread does so too, and was faster with one of them
            continue
        return


def _are_same(seen: list[_Seen]) -> bool:
    """Whether the owner has these modules as they were seen. 0.1 us for each."""
    get = sys.modules.get
    return all(get(name) is it and its.get("__spec__") is spec for name, it, its, spec in seen)


def is_installed(package: str, folders: Folders) -> bool:
    """Whether a module at the top is found, and is not the user's own. 20 us."""
    place = _place_of(package, folders)
    files = [place] if isinstance(place, str) else [os.path.join(folder, "") for folder in place]
    return bool(files) and not any(map(is_users, files))


def _place_of(package: str, folders: Folders) -> str | list[str]:
    """Where a module at the top is found: its file, or the folders of a namespace package."""
    path, directory = folders
    spec = PathFinder.find_spec(package, [entry or directory for entry in path])
    return (spec and (spec.origin or list(spec.submodule_search_locations or ()))) or []


def _state_of(file: str) -> tuple[int, ...]:
    """What changes with the contents of a file, or of the archive that it is in."""
    while True:
        try:
            status = os.stat(file)
            return status.st_ctime_ns, status.st_ino, status.st_size
        except NotADirectoryError:
            file = os.path.dirname(file)
        except OSError:
            return ()
