"""What there is to see of a run at one moment, without a word on how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Self


class Amount(NamedTuple):
    """How much of something a call has used so far; what is None is not known, or not limited."""

    used: float | None = None
    limit: float | None = None

    @property
    def share(self) -> float:
        """What is used of the limit, from 0 to 1; 0 if there is none."""
        return min((self.used or 0) / self.limit, 1.0) if self.limit else 0.0


UNKNOWN: Final = Amount()


@dataclass(frozen=True)
class RunningRow:
    """A call that runs. All texts are printable.

    Attributes:
        task: The name of its function.
        arguments: In short, "10, depth=3".
        age: Seconds since its start.
        worker: Where it runs; empty on this machine, and where that is not known yet.
        attempt: 1, or more if it runs again.
        wall_time: Seconds since its start, or since its last progress, as that is limited.
        cpu_time: Seconds.
        memory: Bytes, at their peak.
        num_processes: At their peak.
    """

    task: str
    arguments: str
    age: float
    worker: str = ""
    attempt: int = 1
    wall_time: Amount = UNKNOWN
    cpu_time: Amount = UNKNOWN
    memory: Amount = UNKNOWN
    num_processes: Amount = UNKNOWN

    @property
    def share(self) -> float:
        """What is used of the limit that is nearest, from 0 to 1."""
        amounts = self.wall_time, self.cpu_time, self.memory, self.num_processes
        return max(amount.share for amount in amounts)


@dataclass(frozen=True)
class EndedRow:
    """A call that has ended. All texts are printable.

    Attributes:
        at: When, in seconds since 1970.
        task: The name of its function.
        arguments: In short, as of one that runs.
        ending: "returned", "raised", ..., as in a report; of a breach the limit, "memory".
        cause: What its exception says, in a line; empty if it has none.
        where: The innermost line of its code when it raised or was ended, "fit.py:12 in fit".
        worker: Where it ran; empty on this machine.
        attempts: How many times it was started.
        wall_time: Seconds; None if it did not run.
        peak_memory: Bytes; 0 if nobody measured it.
    """

    at: float
    task: str
    arguments: str
    ending: str
    cause: str = ""
    where: str = ""
    worker: str = ""
    attempts: int = 1
    wall_time: float | None = None
    peak_memory: int = 0


@dataclass(frozen=True)
class RunView:
    """A moment of a run.

    Attributes:
        executor: Where its calls run.
        state: "starting", "running", "ending", or how it has ended: "exhausted".
        elapsed: Seconds since its start.
        running: Of the calls that run, those nearest to a limit; the oldest first.
        n_running: How many run, as far as that is known.
        n_waiting: How many were submitted and do not run yet.
        counts: How many have ended in this run, by ending.
        rate: How many have ended a second: lately, or in all if the run is over.
        n_left: How many are still to end; None if that is not known.
        time_left: Seconds until then at this rate; None if that is not known, or by too few calls.
        cluster: The workers, and the jobs that have not started yet and what they wait for.
        failures: The last calls that did not return, and were not cancelled; the latest last.
        n_reruns: How many calls were run again as their worker was lost.
        n_retries: How many were run again as a plugin wanted it.
        n_from_journal: How many came back from a journal, as they have ended in an earlier run.
    """

    executor: str
    state: str
    elapsed: float
    running: tuple[RunningRow, ...] = ()
    n_running: int = 0
    n_waiting: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    rate: float = 0.0
    n_left: int | None = None
    time_left: float | None = None
    cluster: tuple[str, ...] = ()
    failures: tuple[EndedRow, ...] = ()
    n_reruns: int = 0
    n_retries: int = 0
    n_from_journal: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.state not in ("starting", "running", "ending")

    @property
    def n_ended(self) -> int:
        """How many calls have ended in this run."""
        return sum(self.counts.values())

    @property
    def n_known(self) -> int:
        """How many calls have ended, in this run or an earlier one."""
        return self.n_ended + self.n_from_journal


class LiveView(AbstractContextManager["LiveView"], Protocol):
    """Shows a run while it goes on. All of this is called in the thread of the run."""

    def __enter__(self) -> Self: ...

    def ended(self, ending: str, row: Callable[[], EndedRow]) -> None:
        """A call has ended so; "from the journal" if in an earlier run.

        `row` says more of it; making it takes some 20 us.
        """

    def show(self, moment: Callable[[int], RunView]) -> float:
        """Show how the run stands, and return the seconds until this is to be called again.

        `moment` takes the number of running calls that there is room for.
        """

    def end(self, last: RunView) -> None:
        """Show how the run has ended."""
