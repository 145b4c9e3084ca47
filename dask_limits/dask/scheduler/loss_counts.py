"""How often each call has lost its worker, and why."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from dask_limits.exceptions import WorkerLostError


@dataclass(frozen=True)
class Loss:
    """A worker that was lost while it ran a call.

    Attributes:
        worker: Its name.
        job: The id of the batch job that it ran in; empty if none.
        cause: Why it was lost, in words.
    """

    worker: str
    job: str
    cause: str

    def __str__(self) -> str:
        return f"worker {self.worker}{f' in job {self.job}' if self.job else ''}: {self.cause}"


class LossCounts:
    """Counts, for each call, the workers that were lost while they ran it.

    Args:
        forgiven: How many losses a call survives.
    """

    def __init__(self, forgiven: int) -> None:
        self._forgiven = forgiven
        self._losses: dict[Hashable, list[Loss]] = {}
        self._tries: dict[Hashable, int] = {}

    def count(self, key: Hashable) -> bool:
        """Count a loss; `explain` adds its cause later. Returns whether it was one too many."""
        self._tries[key] = self._tries.get(key, 0) + 1
        return self._tries[key] > self._forgiven

    def tries(self, key: Hashable) -> int:
        """How many workers a call has lost."""
        return self._tries.get(key, 0)

    def explain(self, key: Hashable, loss: Loss) -> None:
        """Note what is known of a loss that was counted."""
        if key in self._tries:
            self._losses.setdefault(key, []).append(loss)

    def forget(self, key: Hashable) -> None:
        """A call has ended."""
        self._tries.pop(key, None)
        self._losses.pop(key, None)

    def error(self, key: Hashable, name: str) -> WorkerLostError:
        """The error of a call that does not run again."""
        losses = self._losses.get(key, [])
        tries = self.tries(key)
        last = losses[-1] if losses else Loss("", "", "")
        told = "".join(f"\n  {number}. {loss}" for number, loss in enumerate(losses, 1))
        return WorkerLostError(
            f"{name}() was running on {tries} worker{'s' if tries != 1 else ''} when they were"
            f" lost, and does not run again:{told}\nIf the call itself brings its workers down,"
            f" limit its memory. A call survives {self._forgiven} lost workers; to change this, set"
            " distributed.scheduler.allowed-failures in Dask's configuration.",
            call=name,
            worker=last.worker,
            job=last.job,
            cause=last.cause,
            tries=tries,
        )
