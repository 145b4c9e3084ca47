"""What the calls of this machine may reserve together: of its cgroup or batch job, if in one."""

from __future__ import annotations

import math
import os
import zlib
from typing import Final, NamedTuple

from dask_limits.batch_systems.current_job import current_job
from dask_limits.limits.linux import cgroup
from dask_limits.placement.resources import WorkerResources

_MACHINE: Final = 1
_JOBS: Final = 1 << 62  # beside the numbers of groups


class Capacity(NamedTuple):
    """What all programs of a user that run in the same place may reserve together.

    What other programs use there, and this one, is not taken off: that is another figure each time.
    """

    memory: int  # bytes
    cores: int
    what: str  # that has so much
    number: int  # of that place

    @property
    def resources(self) -> WorkerResources:
        """The same as that of a worker."""
        return WorkerResources(self.memory, self.cores)


def capacity_here() -> Capacity:
    """What there is where this process runs: the least of what machine, cgroup and batch job have.

    The place is its batch job if it is in one; else the group whose limit on memory counts.
    """
    memory: float = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores: float = len(os.sched_getaffinity(0))
    what, number = "this machine", _MACHINE
    for allowed in cgroup.allowed_here():
        cores = min(cores, allowed.cores)
        if allowed.memory < memory:
            memory, what, number = allowed.memory, "the cgroup of this program", allowed.group
    job = current_job()
    if job is not None and (job.memory or job.cores):
        memory, cores = min(memory, job.memory or math.inf), min(cores, job.cores or math.inf)
        what = f"job {job.job}"
        number = _JOBS + zlib.crc32(f"{job.system} {job.job}".encode())
    return Capacity(int(memory), max(int(cores), 1), what, number)
