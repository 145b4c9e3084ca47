"""Calls that ran on workers that were lost: how often each, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from dask_limits.batch_systems import slurm
from dask_limits.exceptions import WorkerLostError

_UNSAID_S: Final = 1.0
"""How long a worker must have been heard of after a call was sent there, for its silence about it
to mean that it had not begun. A worker says so after 0.1 s; one that the call has killed at once
never did, nor one whose loop gets no turn because the call holds the GIL."""
_CAUSE_S: Final = 4.0
"""How long the batch system has to find out that a job is over. SLURM takes a second or two, and
a worker that was killed in a job that goes on need not hold up much."""
_ASK_EVERY_S: Final = 0.3


@dataclass(frozen=True)
class Loss:
    """One worker that was lost while it ran a call.

    Attributes:
        worker: Its name.
        job: The id of the batch job that it ran in; empty if none.
        cause: Why, in words.
    """

    worker: str
    job: str
    cause: str

    def __str__(self) -> str:
        return f"worker {self.worker}{f' in job {self.job}' if self.job else ''}: {self.cause}"


class Losses:
    """Counts, for each call, the workers that were lost while they ran it.

    Args:
        forgiven: How many losses a call survives.
    """

    def __init__(self, forgiven: int) -> None:
        self._forgiven = forgiven
        self._losses: dict[Hashable, list[Loss]] = {}
        self._tries: dict[Hashable, int] = {}

    def count(self, key: Hashable) -> bool:
        """Count a loss; its cause comes later. Returns whether it was one too many."""
        self._tries[key] = self._tries.get(key, 0) + 1
        return self._tries[key] > self._forgiven

    def tries(self, key: Hashable) -> int:
        """How many losses a call has been through."""
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
        """The error of a call that is not tried again."""
        losses = self._losses.get(key, [])
        tries = self.tries(key)
        last = losses[-1] if losses else Loss("", "", "")
        told = "".join(f"\n  {number}. {loss}" for number, loss in enumerate(losses, 1))
        return WorkerLostError(
            f"{name}() ran on {tries} worker{'s' if tries != 1 else ''} that went down under it,"
            f" and is not tried again:{told}\nIf it brings them down itself, limit its memory."
            " distributed.scheduler.allowed-failures in Dask's configuration says how many losses"
            f" are forgiven ({self._forgiven}).",
            call=name,
            worker=last.worker,
            job=last.job,
            cause=last.cause,
            tries=tries,
        )


def had_begun(said_so: bool, since: float | None, last_heard: float) -> bool:
    """Whether a call had begun on a worker that is lost.

    Args:
        said_so: Whether the worker has said so.
        since: When there was room for it there, `time.monotonic()`; None if there was not.
        last_heard: When the worker was last heard of, by the same clock.
    """
    return said_so or (since is not None and last_heard < since + _UNSAID_S)


async def cause_of_loss(system: str, job: str) -> str:
    """Why a worker was lost: what the batch system says of its job, or that nothing is known.

    Args:
        system: Which batch system; empty for none.
        job: The id of the job; empty for none.
    """
    give_up = time.monotonic() + _CAUSE_S
    state = await slurm.job_state(system, job)
    while state is not None and not state.ended and time.monotonic() < give_up:
        await asyncio.sleep(_ASK_EVERY_S)
        state = await slurm.job_state(system, job) or state
    if state is None:
        return "its process ended, or the connection to it broke"
    if state.ended:
        return str(state)
    return f"its process ended, or the connection to it broke; {state}"
