"""What an owner wants task processes to have before calls come: the state of its templates."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dask_limits.limits.ipc import pickling
from dask_limits.limits.task.preparation import Preparation
from dask_limits.limits.task.process_state import Setting

_REST: Final = 25
"""How many times as long as a template has taken the next one is put off, so that templates cost
4 % at most. A smaller value learns sooner what calls import, at a higher cost."""


class Preload(NamedTuple):
    """What the user wants before calls come."""

    modules: tuple[str, ...] = ()
    initializer: bytes = b""  # pickled, with its arguments

    @classmethod
    def of(
        cls,
        preload: Sequence[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
    ) -> Preload:
        """Check and pack the arguments of the public functions.

        Raises:
            TypeError: if one has the wrong type.
            ValueError: if a module has no name that could be imported.
        """
        if isinstance(preload, str):
            raise TypeError(f"preload={preload!r} is one string. Use a list: preload=[{preload!r}]")
        for name in preload:
            if not isinstance(name, str):
                raise TypeError(f"preload has {name!r}, which is not the name of a module")
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"preload has {name!r}, which is not the name of a module")
        if initializer is None:
            if initargs:
                raise ValueError("initargs has no effect without an initializer")
            return cls(tuple(preload))
        if not callable(initializer):
            raise TypeError(f"initializer={initializer!r} cannot be called")
        return cls(tuple(preload), pickling.dumps((initializer, tuple(initargs))))


class Templates:
    """Decides from which template a call's process comes, and when there must be a new one.

    Number 0 has imported nothing. Each later one gets what the user asks for, and what calls have
    imported by then. There is no lock, see `Connection`: done twice, a step does no harm.

    Attributes:
        number: The template for new task processes.
        epoch: How often what calls have imported has changed. Processes of an earlier one are not
            used again.
        error: Why there is no template as the user asks for; empty if there is.
    """

    def __init__(self, preload: Preload) -> None:
        self.number = 0
        self.epoch = 0
        self.error = ""
        self._preload = preload
        self._is_required = preload != Preload()
        self._is_wanted = self._is_required
        self._numbers = itertools.count(1)
        self._asked: int | None = None  # the one that is being made
        self._asked_at = self._not_before = 0.0
        self._learned: dict[str, None] = {}
        self._versions: dict[str, Version] = {}

    def learn(self, imported: dict[str, str]) -> None:
        """Note what a call has imported: the file of each module, empty for all but the user's."""
        for name, file in imported.items():
            if name not in self._learned:
                self._learned[name] = None
                self._is_wanted = True
            if file and name not in self._versions:
                self._versions[name] = Version.of(name, file)

    def look_for_changes(self) -> None:
        """Begin a new epoch if a module of the user's has changed since calls have imported it."""
        changed = [name for name, version in self._versions.items() if version.has_changed()]
        if changed:
            self.epoch += 1
            self.number = 0
            self._is_wanted, self._asked, self._not_before = True, None, 0.0
            for name in changed:
                self._versions[name] = self._versions[name].now()

    def to_prepare(self) -> tuple[int, Preparation] | None:
        """The number and the contents of a template that is to be made now, if there is one."""
        is_due = self._asked is None and time.monotonic() >= self._not_before
        if not (self._is_wanted and is_due):
            return None
        setting = Setting.here().for_another_process()
        modules, initializer = self._preload
        return next(self._numbers), Preparation(setting, modules, tuple(self._learned), initializer)

    def asked(self, number: int) -> None:
        """Note that this template is being made."""
        self._asked_at, self._asked, self._is_wanted = time.monotonic(), number, False
        self.error = ""
        if self._is_required and not self.number:
            self.number = number  # calls wait for it

    def prepared(self, number: int, error: str) -> None:
        """Note that a template is ready, or why it is not."""
        if number != self._asked:
            return  # what it has imported has changed meanwhile
        now = time.monotonic()
        self._asked, self._not_before = None, now + _REST * (now - self._asked_at)
        if not error:
            self.number = number
        elif self.number == number:
            self.number, self.error = 0, error
            self._is_wanted = True  # try again, after the rest


class Version(NamedTuple):
    """Which version of a module calls have imported: the one that this process would run."""

    name: str
    file: str
    spec: object = None  # of the module here; importlib.reload makes a new one
    changed_at: int = 0  # of its file, in nanoseconds

    @classmethod
    def of(cls, name: str, file: str) -> Version:
        """The version of now."""
        return cls(name, file).now()

    def now(self) -> Version:
        """The version of now, of the same module."""
        spec = getattr(sys.modules.get(self.name), "__spec__", None)
        changed_at = 0
        with contextlib.suppress(OSError):
            changed_at = os.stat(self.file).st_mtime_ns
        return self._replace(spec=spec, changed_at=changed_at)

    def has_changed(self) -> bool:
        """Whether this process would run another version now."""
        spec = getattr(sys.modules.get(self.name), "__spec__", None)
        if spec is not None and self.spec is not None:
            return spec is not self.spec
        return spec is None and self.spec is None and self.now().changed_at != self.changed_at
