"""What an owner wants task processes to have before calls come: the state of its templates."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dask_limits.limits.ipc import pickling
from dask_limits.limits.owner.versions import Versions
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
        self._versions = Versions()
        self._begun_at = {0: 0}  # each of them, in nanoseconds since 1970

    def begun_at(self, number: int) -> int:
        """When a template began to import modules, in nanoseconds since 1970."""
        return self._begun_at.get(number) or time.time_ns()

    def learn(self, imported: dict[str, str], since: int) -> None:
        """Note what a process has imported since some time: the file of each module.

        It is empty for all modules but the user's.
        """
        for name, file in imported.items():
            if name not in self._learned:
                self._learned[name] = None
                self._is_wanted = True
            if file:
                self._versions.note(name, file, since)

    def look_for_changes(self) -> None:
        """Begin a new epoch if a module of the user's has changed since calls have imported it."""
        if self._versions.have_changed():
            self.epoch += 1
            self.number = 0
            self._is_wanted, self._asked, self._not_before = True, None, 0.0

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
        self._begun_at[number] = time.time_ns()
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
