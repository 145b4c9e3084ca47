from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.slurm_reasons import never_passes

_AWAY_S: Final = 30.0
"""How long a worker may be away while its job runs, in seconds: its nanny starts another one."""
_STUCK_S: Final = 10.0
"""How long a job must wait for a reason that may never pass before SLURM is asked whether it ever
will, and how often. An administrator who changes a partition may take some seconds."""


@dataclass(eq=False)
class PooledJob:
    """A job of a job pool.

    Attributes:
        name: The name of its worker; with several workers in a job, the start of their names.
        id: The batch system's id; "" if it could not be submitted.
        submit_error: Why it could not be submitted; None if it was.
        dask_job: The job of `dask_jobqueue`.
        state: What the batch system said last.
        came: Whether its worker has ever been there.
        away_since: Since when its worker is away, by the pool's clock.
        idle_since: Since when nothing runs on its worker; None while something does.
        leaves: Whether its worker is being retired: its time is nearly up, or it is not needed.
        stuck_since: Since when it waits in the queue for a reason that may never pass.
        why_stuck: Why it will never start, and what to change; "" if it may.
    """

    name: str
    id: str = ""
    submit_error: Exception | None = None
    dask_job: Any = None
    state: JobState | None = None
    came: bool = False
    away_since: float = 0.0
    idle_since: float | None = None
    leaves: bool = False
    stuck_since: float | None = None
    why_stuck: str = ""

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
