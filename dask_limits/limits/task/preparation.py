"""What is done in task processes before calls come: imports, and the user's initializer."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from dask_limits.limits.task import imports
from dask_limits.limits.task.process_state import Setting

_FORKED_WITH_THREADS: Final = {"numpy", "scipy"}
"""Packages whose threads may be there when a process forks: those of OpenBLAS, which ends them
before a fork and starts new ones when they are needed (pthread_atfork(3))."""


@dataclass
class Preparation:
    """What an owner asks of a template and of the task processes that are forked from it.

    Attributes:
        setting: The owner's state; None leaves that of the guardian.
        preload: Names of modules. It is an error if one cannot be imported.
        learned: Names of modules that calls have imported; those that cannot be are left out.
        initializer: A pickled function and its arguments, for each task process; or nothing.
        late: Packages that each task process imports by itself.
        users: What the template and then the task process have imported of the user's modules, as
            `imports.describe` says.
    """

    setting: Setting | None = None
    preload: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    initializer: bytes = b""
    late: frozenset[str] = field(default_factory=frozenset)
    users: bytes = b""

    def in_template(self, late: frozenset[str]) -> set[str]:
        """Import the modules, but for those of the packages `late`.

        Returns further packages that are to be late, because they start threads, which a fork
        would not have, or import a package that does. This process is then no good as a template.
        """
        self.late = late
        if self.setting is not None:
            self.setting.restore()
        imports.look_into_archives_again()
        watch = _ThreadWatch(late)
        sys.meta_path.insert(0, watch)
        try:
            found = self._import(lambda package: package not in late)
        finally:
            sys.meta_path.remove(watch)
        watch.look()
        self._note_users(imports.users_among(sys.modules.copy()))
        return found | watch.starters

    def in_task_process(self) -> None:
        """Import the modules of the late packages, and call the initializer."""
        before = set(sys.modules)
        if self.late:
            self._import(self.late.__contains__)
        if self.initializer:
            initializer, args = pickle.loads(self.initializer)
            initializer(*args)
        if len(before) != len(sys.modules):
            self._note_users(imports.users_among(sys.modules.keys() - before))

    def _note_users(self, described: dict[str, bytes]) -> None:
        self.users += b"".join(described.values())

    def _import(self, is_meant: Callable[[str], bool]) -> set[str]:
        """Import the modules of the packages that are meant. Returns those that need a late one."""
        needs_late = set()
        for name in self.preload:
            if is_meant(package_of(name)):
                try:
                    importlib.import_module(name)
                except _LatePackageNeeded:
                    needs_late.add(package_of(name))
        with _silent():
            for name in self.learned:
                if is_meant(package_of(name)) and name not in sys.modules:
                    try:
                        importlib.import_module(name)
                    except _LatePackageNeeded:
                        needs_late.add(package_of(name))
                    except (Exception, SystemExit):
                        pass  # calls import it by themselves, and get the error
        return needs_late


class _LatePackageNeeded(BaseException):
    """Not an ImportError, which modules handle that can do without a package."""


class _ThreadWatch(importlib.abc.MetaPathFinder):
    """Notes which packages start threads while they are imported. It finds no module itself."""

    def __init__(self, late: frozenset[str]) -> None:
        self.starters: set[str] = set()
        self._late = late
        self._threads = _n_threads()
        self._package = ""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Look whether the module before this one has started threads."""
        self.look()
        self._package = package_of(fullname)
        if self._package in self._late:
            raise _LatePackageNeeded

    def look(self) -> None:
        """Note the package that was looked for last, if there are more threads now."""
        threads = _n_threads()
        in_python = threading.active_count() > 1
        if threads > self._threads and (in_python or self._package not in _FORKED_WITH_THREADS):
            self.starters.add(self._package)
        self._threads = threads


def package_of(module: str) -> str:
    """The name of the package at the top that a module is in."""
    return module.partition(".")[0]


def _n_threads() -> int:
    return len(os.listdir("/proc/self/task"))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what is printed: the call that imported the modules has printed it already."""
    saved = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in saved:
        os.dup2(nowhere, number)
    os.close(nowhere)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        for number, file in saved.items():
            os.dup2(file, number)
            os.close(file)
