"""What is done in task processes before calls come: imports, and the user's initializer."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from dask_limits.limits import in_place
from dask_limits.limits.ipc import by_value
from dask_limits.limits.task import imports, script_globals, threads
from dask_limits.limits.task.process_state import Changes, Setting
from dask_limits.limits.tracebacks import say, text_of

_INITIALIZER: Final = "<initializer>"
"""Among the late packages: to unpickle the initializer and its arguments starts threads."""
_LONGEST_TEXT: Final = 10_000  # characters; a message has room for two


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
        patience: How long it may take, in the template and in each task process, in seconds.
    """

    setting: Setting | None = None
    preload: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    initializer: bytes = b""
    late: frozenset[str] = field(default_factory=frozenset)
    users: bytes = b""
    patience: float = 0.0
    _before: Setting | None = None  # in the template

    def in_template(self, late: frozenset[str]) -> set[str]:
        """Import the modules, but for those of the packages `late`.

        Returns further packages that are to be late, because they start threads, which a fork
        would not have, or import a package that does. This process is then no good as a template.
        """
        self.late = late
        if self.setting is not None:
            self.setting.restore()
        self._before = Setting.here().for_another_process()
        imports.look_into_archives_again()
        watch = _ThreadWatch(late)
        sys.meta_path.insert(0, watch)
        try:
            self._import(lambda package: package not in late, watch)
            watch.importing = _INITIALIZER
            if self.initializer and _INITIALIZER not in late:
                with contextlib.suppress(_LatePackageNeeded), by_value.Receiving():
                    pickle.loads(self.initializer)  # which imports what it needs
                    watch.look(_INITIALIZER)
        finally:
            sys.meta_path.remove(watch)
        watch.look()
        self._note_users(imports.users_among(sys.modules.copy()))
        found = watch.to_be_late - late
        if watch.misses and not found:
            raise RuntimeError("an import starts threads, and it cannot be told which one")
        return found

    def in_task_process(self) -> Changes:
        """Import the modules of the late packages, and call the initializer.

        Returns what the preparation has changed of the owner's setting, here and in the template.
        """
        before = set(sys.modules)
        if self.late:
            self._import(self.late.__contains__)
        if self.initializer:
            with by_value.Receiving():
                initializer, args = pickle.loads(self.initializer)
                with script_globals.noted(initializer):
                    in_place.call(initializer, args, {})
            by_value.keep_classes()
        if len(before) != len(sys.modules):
            self._note_users(imports.users_among(sys.modules.keys() - before))
        now = Setting.here()
        return Changes(self._before or now, now)

    def _note_users(self, described: dict[str, bytes]) -> None:
        self.users += b"".join(described.values())

    def _import(self, is_meant: Callable[[str], bool], watch: _ThreadWatch | None = None) -> None:
        """Import the modules of the packages that are meant."""

        def import_one(name: str) -> None:
            if not is_meant(package_of(name)) or name in sys.modules:
                return
            if watch is None:
                importlib.import_module(name)
                return
            watch.importing = package_of(name)
            with contextlib.suppress(_LatePackageNeeded):
                module = importlib.import_module(name)
                is_users = imports.is_users(getattr(module, "__file__", None) or "")
                watch.look(package_of(name) if is_users else "")

        for name in self.preload:
            import_one(name)
        with _silent():
            for name in self.learned:
                # If it fails, calls import it by themselves, and get the error.
                with contextlib.suppress(Exception, SystemExit):
                    import_one(name)


def report_of(error: BaseException) -> bytes:
    """A report, as `messages` has it."""
    said, text = say(error).replace("\0", ""), text_of(error).replace("\0", "")
    return f"{said[:_LONGEST_TEXT]}\0{text[-_LONGEST_TEXT:]}".encode(errors="backslashreplace")


class _LatePackageNeeded(BaseException):
    """Not an ImportError, which modules handle that can do without a package."""


class _ThreadWatch(importlib.abc.MetaPathFinder):
    """Notes which packages start threads while they are imported, or need one that does.

    It finds no module itself.

    Attributes:
        importing: The package that is being imported, as it was asked for.
        to_be_late: The packages that are not to be imported in a template.
    """

    def __init__(self, late: frozenset[str]) -> None:
        self.importing = ""
        self.to_be_late: set[str] = set()
        self._late = late
        self._threads = threads.count()
        self._missed = threads.missed_by_a_fork()
        self._package = ""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Look whether the module before this one has started threads."""
        self.look(_users_package(sys._getframe(1)))
        self._package = package_of(fullname)
        if self._package in self._late:
            self.to_be_late.add(self.importing)  # a module may swallow what is raised
            raise _LatePackageNeeded

    @property
    def misses(self) -> bool:
        """Whether there are threads that a fork would be without."""
        return self._missed > 0

    def look(self, users: str = "") -> None:
        """Note who has started the threads that are new and that a fork would be without.

        This is the package of the user's that is being imported, if one is: it may have used what
        it has imported. Otherwise it is the package that was looked for last.
        """
        now = threads.count()
        if now == self._threads:
            return
        self._threads, missed_before, self._missed = now, self._missed, threads.missed_by_a_fork()
        if self._missed > missed_before:
            self.to_be_late.add(users or self._package)


def _users_package(frame: types.FrameType | None) -> str:
    """The package of the module that imports another one in this frame; empty if not the user's."""
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            is_users = imports.is_users(frame.f_code.co_filename)
            return package_of(frame.f_globals.get("__name__", "")) if is_users else ""
        frame = frame.f_back
    return ""


def package_of(module: str) -> str:
    """The name of the package at the top that a module is in."""
    return module.partition(".")[0]


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
