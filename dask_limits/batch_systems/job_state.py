from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_WAITING: Final = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
_THERE: Final = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"}


@dataclass(frozen=True)
class JobState:
    """The state of a batch job, as `on_waiting_for_workers` and errors carry it.

    Attributes:
        job: Its id.
        name: The name of the Dask worker in it; "" if unknown.
        state: In SLURM's words: "PENDING", "RUNNING", "TIMEOUT", ... (`man squeue`, JOB STATE
            CODES); "" if unknown.
        reason: Why it is in that state: "Resources", "NonZeroExitCode", ...; "" if there is none.

    Example:
        >>> str(JobState("17", state="PENDING", reason="Resources"))
        'job 17 is PENDING (Resources)'
    """

    job: str
    name: str = ""
    state: str = ""
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it waits to start, or to start again."""
        return self.state in _WAITING

    @property
    def ended(self) -> bool:
        """Whether it has ended; False if that is unknown."""
        return bool(self.state) and not self.waits and self.state not in _THERE

    def __str__(self) -> str:
        state = self.state or "in an unknown state"
        return f"job {self.job or '?'} is {state}" + (f" ({self.reason})" if self.reason else "")
