from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_WAITING: Final = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
_THERE: Final = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"}


@dataclass(frozen=True)
class JobState:
    """What a batch system says of a job.

    Attributes:
        job: Its id.
        name: The name of the Dask worker in it; "" if it is not known.
        state: In SLURM's words: "PENDING", "RUNNING", "TIMEOUT", ... (`man squeue`, JOB STATE
            CODES); "" if it is not known.
        reason: Why it is in that state: "Resources", "NonZeroExitCode", ...; "" if there is none.
    """

    job: str
    name: str = ""
    state: str = ""
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it has yet to start, or to start again."""
        return self.state in _WAITING

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended, in whichever way."""
        return bool(self.state) and not self.waits and self.state not in _THERE

    def __str__(self) -> str:
        """For people: "job 17 is PENDING (Resources)"."""
        state = self.state or "in an unknown state"
        return f"job {self.job or '?'} is {state}" + (f" ({self.reason})" if self.reason else "")
