from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from dask_limits import Display, Journal, Plugin, Scheduler, WorkerInfo
from dask_limits.batch.ended import Ended
from dask_limits.batch.failures import MOST_SHOWN
from dask_limits.batch.item import Item, Run
from dask_limits.batch.journal import key_of
from dask_limits.batch.results import Writer
from dask_limits.exceptions import SchedulerNotRunningError

_AHEAD: Final = 1000
"""Commands of a pipe that may be submitted and not done. More would take memory; of fewer, a
cluster of many workers could run out."""
_NEVER: Final = 100 * 365 * 24 * 3600.0  # seconds


class NotSubmittedError(Exception):
    """A command could not be given to its scheduler."""


class Batch:
    """Runs commands on a scheduler, and tells of each that has ended.

    Args:
        items: The commands. They are taken as there is room for them.
        run: Runs one.
        plugins: Limits and retries.
        tell: What is told of each that has ended.
        begin: Called before the first command, when no other program has the journal.
        waits: Whether items may take long to come, as from a pipe.
        fail_fast: Whether to end everything at the first command that fails.
        ahead: How many commands may be submitted and not done; None if it is as usual.

    Attributes:
        counts: How many have ended in which way.
        n_cancelled: How many were ended by this program while they ran.
        n_waiting: How many were submitted, and cancelled before they began.
        failed: The first of those that have failed.
        error: What reading the commands, or telling of them, has raised.
    """

    def __init__(
        self,
        items: Iterable[Item],
        run: Run,
        plugins: Iterable[Plugin],
        tell: Writer,
        *,
        begin: Callable[[], object],
        waits: bool = False,
        fail_fast: bool = False,
        ahead: int | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.n_cancelled = self.n_waiting = 0
        self.failed: list[Ended] = []
        self.error: Exception | None = None
        self._items = items
        self._run = run
        self._plugins = list(plugins)
        self._tell = tell
        self._begin = begin
        self._waits = waits
        self._fail_fast = fail_fast
        self._running: dict[Any, Item] = {}
        self._hosts: dict[str, str] = {}
        self._submitted = 0  # the index of the last one
        self._ahead = ahead
        self._room = threading.Semaphore(ahead or _AHEAD)

    @property
    def n_failed(self) -> int:
        """How many have failed."""
        return self.counts.total() - self.counts["returned"]

    def run(
        self, scheduler: Scheduler, display: bool | Display, journal: Journal | None = None
    ) -> None:
        """Run all. Whatever ends this early, such as `scheduler.stop()`, ends what still runs.

        Raises:
            LimitRefusedError, WorkersNotStartedError, JournalError: as `Scheduler.run`.
        """
        task = scheduler.task(self._run, plugins=self._plugins, key=key_of)
        task.on_submitted(self._note_submitted)
        task.on_done(lambda future: self._ended(scheduler, future))
        task.on_cancelled(self._cancelled)
        scheduler.on_worker_added(self._note_worker)
        items = self._until_error(scheduler)

        @scheduler.on_start
        def start() -> None:
            try:
                self._begin()
            except Exception as error:
                self.error = error
                scheduler.stop()
                return
            if self._waits:
                self._feed(scheduler, task.submit, items)
            elif scheduler.running():
                scheduler.map(task, items, max_in_flight=self._ahead)

        scheduler.run(
            wait=False,
            on_exception="continue",
            on_cancelled="continue",
            display=display,
            journal=journal,
        )

    def _until_error(self, scheduler: Scheduler) -> Iterator[Item]:
        """The items; an error in reading them ends them, and those before it go on.

        One that could not be submitted ends the run: the scheduler goes on without it, and logs
        why.
        """
        try:
            for item in self._items:
                yield item
                if self._submitted != item.index and scheduler.running():
                    raise NotSubmittedError(f"command {item.index} could not be submitted")
        except NotSubmittedError as error:
            self.error = error
            scheduler.stop()
        except Exception as error:
            self.error = error

    def _note_submitted(self, future: Any, item: Item) -> None:
        self._running[future] = item
        self._submitted = item.index

    def _feed(
        self, scheduler: Scheduler, submit: Callable[[Item], object], items: Iterable[Item]
    ) -> None:
        """Submit what comes, in a thread of its own: only that waits for it."""
        more = scheduler.call_later(_NEVER, lambda: None)  # until then, the run is not empty

        def feed() -> None:
            try:
                for item in items:
                    self._room.acquire()
                    submit(item)
            except SchedulerNotRunningError:  # it is ending
                pass
            except Exception as error:
                self.error = error
                scheduler.stop()
            finally:
                more.cancel()

        threading.Thread(target=feed, name="commands", daemon=True).start()

    def _note_worker(self, worker: WorkerInfo) -> None:
        self._hosts[worker.name] = urlsplit(worker.address).hostname or worker.address

    def _ended(self, scheduler: Scheduler, future: Any) -> None:
        self._room.release()
        ended = Ended.of(self._running.pop(future), future, self._hosts)
        self.counts[ended.ending] += 1
        if ended.has_failed and len(self.failed) < MOST_SHOWN:
            self.failed.append(ended)
        try:
            self._tell.add(ended)
        except OSError as error:
            self.error = self.error or error
            scheduler.stop()
        if self._fail_fast and ended.has_failed and not future.from_journal:
            scheduler.stop()

    def _cancelled(self, future: Any) -> None:
        self._room.release()
        item = self._running.pop(future)
        if future.started_at is None:
            self.n_waiting += 1
        else:
            self.n_cancelled += 1
        self._tell.skip(item.index)
