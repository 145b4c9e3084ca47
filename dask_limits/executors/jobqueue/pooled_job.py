from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.slurm_reasons import never_passes

_AWAY_S: Final = 30.0
"""How long a worker may be away while its job runs: its nanny starts another one."""
_STUCK_S: Final = 10.0
"""How long a job must wait for a reason that may never pass before SLURM is asked whether it ever
will, and how often. An administrator who changes a partition may take some seconds."""


@dataclass(eq=False)
class PooledJob:
    """A job of a job pool. Times are by the pool's clock."""

    name: str  # of its worker; with several workers in a job, the start of their names
    id: str = ""  # the batch system's; "" if it could not be submitted
    submit_error: Exception | None = None  # why it could not be submitted
    dask_job: Any = None  # of `dask_jobqueue`
    workers: list[Any] = field(default_factory=list)  # those that are there
    state: JobState | None = None  # what the batch system said last
    came: bool = False  # whether its worker has ever been there
    away_since: float = 0.0  # since when its worker is away
    idle_since: float | None = None  # since when its worker is idle; None while it is busy
    leaves: bool = False  # its worker is retired: its time is nearly up, or it is not needed
    stuck_since: float | None = None  # since when it waits for a reason that may never pass
    why_stuck: str = ""  # why it will never start, and what to change; "" if it may

    def public_state(self) -> JobState:
        """Its state, as users see it."""
        return replace(self.state or JobState(self.id), name=self.name)

    def note_worker(self, now: float, *, busy: bool) -> None:
        """Its worker is there."""
        self.came, self.away_since = True, now
        self.state = None  # it would be out of date once the worker has gone
        self.stuck_since, self.why_stuck = None, ""
        if busy:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now

    def note_state(self, state: JobState, now: float) -> None:
        """The batch system has told its state."""
        self.state = state
        if not (state.waits and never_passes(state.reason)):
            self.stuck_since, self.why_stuck = None, ""
        elif self.stuck_since is None:
            self.stuck_since = now

    def may_be_stuck(self, now: float) -> bool:
        """Whether it has waited for long enough to find out if it will ever start."""
        if self.stuck_since is None or self.why_stuck:
            return False
        return now - self.stuck_since >= _STUCK_S

    def has_ended(self, now: float) -> bool:
        """Whether no worker will come from this job. Ask only while none is there."""
        if self.submit_error is not None or (self.state is not None and self.state.ended):
            return True
        waits = self.state is not None and self.state.waits
        return self.leaves or (self.came and not waits and now - self.away_since > _AWAY_S)
