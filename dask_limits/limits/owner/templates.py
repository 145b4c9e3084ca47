"""What an owner wants task processes to have before calls come: the state of its templates."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from dask_limits.limits.ipc import messages
from dask_limits.limits.ipc.transport import Message
from dask_limits.limits.owner.doubts import Doubt, Doubts
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.owner.preload import NOTHING, NotPreparedError, Preload
from dask_limits.limits.owner.use import Use
from dask_limits.limits.owner.versions import Folders, Versions, is_installed
from dask_limits.limits.task.imports import package_of
from dask_limits.limits.task.preparation import Preparation
from dask_limits.limits.task.process_state import Setting

_REST: Final = 25
"""How many times as long as a template has taken a program rests for it, so that templates cost 4 %
at most. A smaller value learns sooner what calls import, at a higher cost."""
_AHEAD: Final = 2
"""Templates that need not be rested for before the next one is made. Programs call several
functions when they begin, which import one library after the other: so all are learned in seconds.
A larger value has more CPU time go into templates there."""
_PATIENCE_S: Final = 600.0
"""How long what the user asks for may take, in a template and in each task process. It is there to
end what never ends by itself; a large model from a slow disk takes minutes."""
_LEARNED_PATIENCE_S: Final = 60.0
"""The same for what calls have imported. Calls can do without."""


class Wanted(NamedTuple):
    """A template that is to be made."""

    number: int
    epoch: int
    preparation: Preparation


class Templates:
    """Decides from which template a call's process comes, and when there must be a new one.

    Number 0 has imported nothing. Each later one gets what the user asks for, and what calls have
    imported by then of installed packages and the standard library. There is no lock, see
    `Connection`: done twice, a step does no harm.

    Attributes:
        number: The template for new task processes.
        epoch: How often what calls have imported, or what the user asks for, has changed. Processes
            of an earlier one are not used again.
    """

    def __init__(self) -> None:
        self.number = 0
        self.epoch = 0
        self._error = ""  # why there is no template as the user asks for
        self._wanted = self._preload = NOTHING
        self._changing = threading.RLock()
        self._is_required = self._is_wanted = False
        self._numbers = itertools.count(1)
        self._asked: int | None = None  # the one that is being made
        self._latest = 0  # the one that was asked for last
        self._asked_at = self._not_before = self._rested_at = 0.0
        self._learned: dict[str, None] = {}
        self._asked_for: tuple[str, ...] = ()  # what is learned by the one that is being made
        self._proven: set[str] = set()  # what was, by the last one that was ready
        self._failing: set[str] = set()  # what may have ended one
        self._doubts = Doubts()
        self._took, self._memory = 0.0, 0  # seconds and bytes, of the last one that was ready
        self._learn_after = 0.0  # seconds of time.monotonic(), as the other times
        self._versions = Versions()
        self._in_templates: set[str] = set()  # modules of the user's, and packages
        self._begun: dict[int, tuple[int, Folders]] = {}  # each: when, and where modules were

    def want(self, preload: Preload) -> None:
        """Have what the user asks for from now on, instead of what it was before."""
        if preload is self._wanted:
            return
        with self._changing:
            if preload is not self._wanted:
                self._preload = preload
                self._is_required = preload != NOTHING
                self._begin_epoch()
                self._wanted = preload  # not before: other threads then do as it says

    def _begin_epoch(self) -> None:
        self.epoch += 1
        self.number = 0
        self._is_wanted = self._is_required or bool(self._learned)
        self._asked, self._not_before, self._error = None, 0.0, ""

    def check(self) -> None:
        """Raise a `NotPreparedError` if there is no template as the user asks for."""
        if self._error:
            raise NotPreparedError(self._error)

    def suits(self, number: int) -> bool:
        """Whether a new process of this template is what calls are to have."""
        return number == self.number and not (number == 0 and self._is_required)

    @property
    def versions(self) -> tuple[int, Folders]:
        """How often modules have changed since calls have imported them, and where they are."""
        return self._versions.changes, self._versions.folders

    def are_stale(self, modules: dict[str, int]) -> bool:
        """Whether modules have changed after these changes, each since its own."""
        changed = self._versions.changed
        return bool(changed) and any(changed.get(name, 0) > seen for name, seen in modules.items())

    def note_calls(self, lease: Lease, use: Use, seconds: float) -> None:
        """Note what the last calls of a process, which took so long, and the process imported."""
        if lease.prepared:
            self.note_prepared(lease.prepared, lease.template)
            lease.prepared = {}
        self.learn(lease.imported, lease.since, lease.folders)
        if lease.looked_for:
            doubt = Doubt(seconds, lease.memory)
            self.learn_from_ended(lease.looked_for, lease.since, lease.folders, use, doubt)

    def note_prepared(self, imported: dict[str, str | None], template: int) -> None:
        """Note what processes of this template have imported before they run calls."""
        self._in_templates |= imported.keys()
        begun_at, folders = self._begun.get(template) or (time.time_ns(), self._versions.folders)
        self._note_changed(self._versions.note(imported, begun_at, folders))

    def learn(self, imported: dict[str, str | None], since: int, folders: Folders) -> None:
        """Note what a call has imported since some time, when these folders were looked at.

        Modules of the user's are not learned: what a module makes when it is imported (random
        numbers, files, locks, child processes) would be one for all calls.
        """
        if imported:
            moved = self._versions.note(imported, since, folders)
            self._doubts.clear(imported)
            self._learn({n for n, file in imported.items() if file is None}, imported)
            self._note_changed(moved)

    def learn_from_ended(
        self, looked_for: Iterable[str], since: int, folders: Folders, use: Use, doubt: Doubt
    ) -> None:
        """Note what a call of this use had imported, or was about to, when it was ended."""
        names = self._doubts.untried(looked_for)
        installed = {name for name in set(map(package_of, names)) if is_installed(name, folders)}
        imported = {name: None for name in names if package_of(name) in installed}
        self._doubts.add(imported.keys() - self._learned.keys() - self._failing, doubt)
        moved = self._versions.note(dict(imported), since, folders)
        self._learn(set(imported), imported)
        self._doubts.miss(use, frozenset((imported.keys() & self._learned.keys()) - self._proven))
        self._note_changed(moved)

    def awaited_by(self, use: Use) -> int:
        """The template that the next call of this use has to wait for; 0 if there is none."""
        missed = self._doubts.missed_by(use)
        if missed and self._asked is not None and missed.issubset(self._asked_for):
            return self._asked
        return 0

    def _learn(self, ahead: set[str], in_order: Iterable[str]) -> None:
        new = ahead - self._learned.keys() - self._failing
        if new and time.monotonic() >= self._learn_after:
            self._learned |= {name: None for name in in_order if name in new}
            self._is_wanted = True

    def look_for_changes(self) -> None:
        """Look which modules calls would import in another version now."""
        self._note_changed(self._versions.find_changed())

    def _note_changed(self, changed: set[str]) -> None:
        """Begin a new epoch if these are among what processes have before they run calls.

        Installed packages that have moved are not learned: they may be the user's own now.
        """
        if not changed:
            return
        learned = dict.fromkeys(n for n in self._learned if package_of(n) not in changed)
        has_learned = len(learned) != len(self._learned)
        self._learned = learned
        if has_learned or not self._in_templates.isdisjoint(changed):
            self._begin_epoch()

    @property
    def is_due(self) -> bool:
        """Whether a template is to be made now."""
        is_free = self._asked is None and time.monotonic() >= self._not_before
        return self._is_wanted and is_free

    def to_prepare(self) -> Wanted | None:
        """A template that is to be made now, if there is one."""
        if not self.is_due:
            return None
        epoch = self.epoch
        preparation = Preparation(
            Setting.here().for_another_process(),
            self._preload.modules,
            initializer=self._preload.initializer,
            patience=_PATIENCE_S if self._is_required else _LEARNED_PATIENCE_S,
        )
        self._have_learned(preparation)
        return Wanted(next(self._numbers), epoch, preparation)

    def _have_learned(self, preparation: Preparation) -> None:
        """Have a template import what calls have imported.

        What is in doubt comes alone, with what the last template has: then it is what fails.
        """
        learned = tuple(self._learned)
        doubted = self._doubts.among(learned)
        if self._is_required and not self.number:  # calls wait for it
            learned = tuple(name for name in learned if name not in doubted)
        elif doubted:
            learned = tuple(name for name in learned if name in doubted | self._proven)
            patience, memory = self._doubts.limits_on(doubted)
            preparation.patience = min(preparation.patience, self._took + patience)
            preparation.most_memory = memory and self._memory + memory
        preparation.learned = learned

    def asked(self, wanted: Wanted) -> None:
        """Note that this template is being made."""
        if wanted.epoch != self.epoch or wanted.number < self._latest:
            return  # what it imports has changed meanwhile, or a signal's handler has asked again
        self._latest, self._asked_for = wanted.number, wanted.preparation.learned
        self._asked_at, self._asked = time.monotonic(), wanted.number
        self._is_wanted = not self._learned.keys() <= {*self._asked_for}
        self._begun[wanted.number] = time.time_ns(), self._versions.folders
        self._error = ""
        if self._is_required and not self.number:
            self.number = wanted.number  # calls wait for it

    def take(self, message: Message) -> bool:
        """Take a message of the guardian. False if it is not about a template."""
        if message.kind != messages.FAILED:
            return False
        self.failed(message.number, str(message.body, errors="replace"))
        return True

    def prepared(self, number: int, seconds: float, memory: int = 0) -> None:
        """Note that a template is ready, perhaps for long, and what it has taken, in bytes too.

        It does no harm to repeat this.
        """
        if number == self._asked:  # otherwise what it has imported has changed meanwhile
            self._rested_at = max(self._rested_at, time.monotonic()) + _REST * seconds
            self._asked, self._not_before = None, self._rested_at - _AHEAD * _REST * seconds
            self.number, self._proven = number, {*self._asked_for}
            self._took, self._memory = seconds, memory
            self._doubts.clear(self._proven)
            self._doubts.clear_missing(self._proven)

    def failed(self, number: int, error: str) -> None:
        """Note that a template cannot be made, or that its processes are never ready, and why."""
        if number == self._asked:
            self._rest(time.monotonic() - self._asked_at)
            if number != self.number:
                self._go_on_without({*self._asked_for} - self._proven)
        elif number == self.number != 0:
            self._rest(_PATIENCE_S)
        if number != self.number:
            return  # calls do not wait for it
        if self._learned:
            self._unlearn()
        elif self._is_required:
            self.number, self._error = 0, error
            self._is_wanted = True  # try again, after the rest

    def process_failed(self, number: int, error: str) -> None:
        """Note that a new task process of this template has not become ready, and why.

        Raises:
            NotPreparedError: if this is due to what the user has asked for.
            BlockingIOError: if nothing was to be prepared.
        """
        if number == 0:
            raise BlockingIOError(NotPreparedError(error).why)
        if number == self.number:
            if not self._learned:
                raise NotPreparedError(error)
            self._unlearn()

    def _go_on_without(self, failing: set[str]) -> None:
        """Learn these modules no more: one of them has ended the last template."""
        if self._doubts.among(failing):  # which are then all of them, and are not tried again
            self._doubts.give_up(failing)
            self._not_before = 0.0
        else:
            self._failing |= failing
        self._learned = {name: None for name in self._learned if name not in failing}

    def _unlearn(self) -> None:
        """Do without what calls have imported: it may be what has failed."""
        self._learned, self._proven = {}, set()
        self._learn_after = time.monotonic() + _REST * _LEARNED_PATIENCE_S
        self._begin_epoch()

    def _rest(self, seconds: float) -> None:
        self._asked, self._not_before = None, time.monotonic() + _REST * seconds
