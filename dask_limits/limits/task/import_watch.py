"""Finds the packages that a template must not import, while it imports them.

A fork of a template shares with all others what an import has made there and is no memory of its
own, such as an open file, and is without what no fork has, such as a thread. A package that leaves
such things is late: each task process imports it by itself. And an import may change the process,
for functions too that do not use the package: what calls have imported is then left out, and what
the user has asked for stays. So is what needs modules of the user's: those are imported ahead only
where the user has asked for it.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from typing import Any, Final, NamedTuple

from dask_limits.limits.task import imports
from dask_limits.limits.task.import_effects import ImportEffects
from dask_limits.limits.task.imports import package_of


class Excluded(NamedTuple):
    """Packages that are not imported in a template.

    Attributes:
        late: Each task process imports them by itself.
        left_out: The same packages of those that calls have imported are not imported ahead at all.
    """

    late: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()

    def packed(self) -> bytes:
        """As `unpacked` reads it."""
        return "\0".join(map(" ".join, self)).encode()

    @classmethod
    def unpacked(cls, body: bytes) -> Excluded:
        """The same from a message; an empty one excludes nothing."""
        return cls(*(frozenset(part.split()) for part in body.decode().split("\0")))

    @property
    def all(self) -> frozenset[str]:
        """Both together."""
        return self.late | self.left_out

    def __or__(self, other: tuple[frozenset[str], ...]) -> Excluded:
        return Excluded(*(one | another for one, another in zip(self, other, strict=True)))


NOTHING_EXCLUDED: Final = Excluded()


class ImportWatch:
    """A context in which imports are watched. It finds modules as the other finders do.

    Attributes:
        generators: Those of NumPy that each fork is to seed.
    """

    def __init__(self, excluded: Excluded) -> None:
        self._excluded = excluded
        self._is_learned = False
        self._running: list[str] = []  # the packages whose modules are running, outermost first
        self._late: set[str] = set()
        self._left_out: set[str] = set()
        self._effects = ImportEffects()
        self.generators = self._effects.generators.to_be_seeded

    def __enter__(self) -> ImportWatch:
        sys.meta_path.insert(0, self)
        self._rarer = self._effects.read_rarer()
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)
        self._effects.close()

    @property
    def found(self) -> Excluded:
        """The packages that are to be excluded, beyond those that are.

        Late ones come last: only while they are imported is it seen which need one that is left
        out, and so must be left out too.
        """
        left_out = self._left_out - self._excluded.left_out
        late = set() if left_out else self._late - self._excluded.late
        return Excluded(frozenset(late), frozenset(left_out))

    @contextlib.contextmanager
    def importing(self, package: str, *, is_learned: bool = True) -> Iterator[None]:
        """A context in which this package is imported, if it can be.

        What it leaves is judged at its end: until then it may have ended a process, say.
        """
        self._is_learned = is_learned
        self._running = [package]
        self._suspects: tuple[set[str], set[str]] = set(), set()
        first = self._last = self._effects.read()
        try:
            with contextlib.suppress(_ExcludedPackageNeeded):
                yield
        finally:
            self._look()
            self._judge(first, self._last)
            before, self._rarer = self._rarer, self._effects.read_rarer(package)
            self._suspects = {package}, {package}
            self._judge(before, self._rarer)
            self._running = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module by the other finders, and watch its import."""
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module") and not isinstance(spec.loader, type):
                    spec.loader = _WatchedLoader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None

    def check(self, spec: ModuleSpec) -> None:
        """Stop an import that needs a package that is excluded, or a module of the user's."""
        package = package_of(spec.name)
        is_left_out = package in self._excluded.left_out or imports.users_file(spec)
        if self._is_learned and is_left_out:
            self._left_out.update(self._running)
        elif package in self._excluded.late:
            self._late.update(self._running)  # a module may swallow what is raised
        else:
            return
        if self._running:
            raise _ExcludedPackageNeeded(package)

    @contextlib.contextmanager
    def running(self, module: str) -> Iterator[None]:
        """A context in which a module is made, or runs."""
        package = package_of(module)
        # There is none in a later import, by a loader that was not used until then.
        if not self._running or package in self._running:
            yield
            return
        self._look()
        self._running.append(package)
        try:
            yield
        finally:
            self._look()
            self._running.pop()

    def _look(self) -> None:
        """Suspect those that are running, and need each other, of what has changed since."""
        now = self._effects.read()
        for suspects, before, after in zip(self._suspects, self._last, now, strict=True):
            if before != after:
                suspects.update(self._running)
        self._last = now

    def _judge(self, before: tuple[object, ...], after: tuple[object, ...]) -> None:
        shares, changes = (one != other for one, other in zip(before, after, strict=True))
        if shares:
            self._late |= self._suspects[0]
        if changes and self._is_learned:
            self._left_out |= self._suspects[1]


class _ExcludedPackageNeeded(BaseException):
    """Not an ImportError, which modules handle that can do without a package."""


class _WatchedLoader:
    """Loads a module by another loader, of which it leaves no trace."""

    # No `importlib.abc.Loader`: that module imports 20 others.

    def __init__(self, loader: Any, watch: ImportWatch) -> None:
        self._loader = loader
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        """Make the module. One in C may run here already."""
        self._watch.check(spec)
        if not isinstance(self._loader, ExtensionFileLoader):
            return self._create(spec)
        with self._watch.running(spec.name):
            return self._create(spec)

    def _create(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module, with the loader that it would have otherwise."""
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self._loader
        with self._watch.running(spec.name):
            self._loader.exec_module(module)
