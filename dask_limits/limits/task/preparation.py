"""What is done in task processes before calls come: imports, and the user's initializer."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import sys
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any, Final

from dask_limits.limits import in_place
from dask_limits.limits.ipc import by_value
from dask_limits.limits.task import generators, imports, script_globals
from dask_limits.limits.task.import_watch import NOTHING_EXCLUDED, Excluded, ImportWatch
from dask_limits.limits.task.imports import package_of
from dask_limits.limits.task.process_state import Changes, Setting
from dask_limits.limits.task.random_state import RandomStates, of_numpy
from dask_limits.limits.tracebacks import say, text_of

_INITIALIZER: Final = "<initializer>"
"""Among the late packages: to unpickle the initializer and its arguments leaves what they leave."""
_IMPORTED_FIRST: Final = (
    *("dask_limits.limits.task.fresh", "concurrent.futures.thread", "hashlib"),
    *("importlib.resources", "pathlib", "urllib.parse"),
)
"""Modules that a template imports before it watches imports: it sees what packages change of those,
see `Patches`. With the first is pynisher, which some calls need. They take 50 ms: too long for the
template of a program that begins, which imports nothing else."""
_LONGEST_TEXT: Final = 10_000  # characters; a message has room for two


@dataclass
class Preparation:
    """What an owner asks of a template and of the task processes that are forked from it.

    Attributes:
        setting: The owner's state; None leaves that of the guardian.
        preload: Names of modules. It is an error if one cannot be imported.
        learned: Names of modules that calls have imported; those that cannot be are left out.
        initializer: A pickled function and its arguments, for each task process; or nothing.
        excluded: Packages that the template does not import.
        imported: What the template and then the task process have imported, as `imports.describe`
            says.
        patience: How long it may take, in the template and in each task process, in seconds.
        most_memory: Bytes that the template may have meanwhile; 0 is no limit.
        random: In a task process, the global generators of random numbers.
        modules: The names of those that are there before the first call.
        changes: What all this has changed of the owner's setting.
    """

    setting: Setting | None = None
    preload: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    initializer: bytes = b""
    excluded: Excluded = NOTHING_EXCLUDED
    imported: bytes = b""
    patience: float = 0.0
    most_memory: int = 0
    random: RandomStates = field(init=False, repr=False)
    modules: frozenset[str] = field(init=False, repr=False)
    changes: Changes = field(init=False, repr=False)
    _before: Setting | None = None  # in the template
    _generators: list[Any] = field(default_factory=list)  # that each task process is to seed

    def in_template(self, excluded: Excluded) -> Excluded:
        """Import the modules, but for those of excluded packages.

        Returns further packages that are to be excluded. This process is then no good as a
        template.
        """
        for name in _IMPORTED_FIRST:
            importlib.import_module(name)
        self.excluded = excluded
        before = set(sys.modules)
        if self.setting is not None:
            self.setting.restore()
        self._before = Setting.here().for_another_process()
        imports.look_into_archives_again()
        with ImportWatch(excluded) as watch:
            for name in self.preload:
                if package_of(name) not in excluded.late:
                    with watch.importing(package_of(name), is_learned=False):
                        importlib.import_module(name)
            with _silent():
                for name in self.learned:
                    if name not in sys.modules and package_of(name) not in excluded.all:
                        with _passing_over_errors(), watch.importing(package_of(name)):
                            importlib.import_module(name)
            if self.initializer and _INITIALIZER not in excluded.late:
                with watch.importing(_INITIALIZER, is_learned=False), by_value.Receiving():
                    pickle.loads(self.initializer)  # which imports what it needs
        self._generators = [it for it in watch.generators if it is not of_numpy()]
        self._note_imports_since(before)
        self.take_stock()
        return watch.found

    def take_stock(self) -> None:
        """Note what there is now. What a template has noted, its task processes inherit: to look
        at all modules in each of them would copy the pages that these are in.
        """
        self.modules = frozenset(sys.modules)
        now = Setting.here()
        self.changes = Changes(self._before or now, now)

    def in_task_process(self) -> None:
        """Import the modules of the late packages, and call the initializer."""
        for generator in self._generators:
            generators.seed(generator)
        late = self.excluded.late
        for name in self.learned:
            if package_of(name) in late - self.excluded.left_out:
                with _passing_over_errors():
                    importlib.import_module(name)
        self.random = RandomStates()
        with self.random.preparing() if late or self.initializer else contextlib.nullcontext():
            for name in self.preload:
                if package_of(name) in late:
                    importlib.import_module(name)
            if self.initializer:
                self._initialize()
        if late or self.initializer:
            self._note_imports_since(self.modules)
            self.take_stock()

    def _initialize(self) -> None:
        with by_value.Receiving():
            initializer, args = pickle.loads(self.initializer)
            with script_globals.noted(initializer):
                in_place.call(initializer, args, {})
        by_value.keep_classes()

    def _note_imports_since(self, before: Set[str]) -> None:
        if len(before) != len(sys.modules):
            new = sys.modules.keys() - before
            self.imported += imports.describe(new, new)


def report_of(error: BaseException) -> bytes:
    """A report, as `messages` has it."""
    said, text = say(error).replace("\0", ""), text_of(error).replace("\0", "")
    return f"{said[:_LONGEST_TEXT]}\0{text[-_LONGEST_TEXT:]}".encode(errors="backslashreplace")


def _passing_over_errors() -> contextlib.AbstractContextManager[None]:
    """A context for an import that calls can do by themselves: if it fails, they get the error."""
    return contextlib.suppress(Exception, SystemExit)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what is printed: the call that imported the modules has printed it already.

    A module that keeps a file to print to is late: it gets the real one, in each process.
    """
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
