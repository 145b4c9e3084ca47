"""What limits reserve, and what a worker has for them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import distributed
import psutil

from dask_limits.batch_systems.current_job import current_job
from dask_limits.dask.compat.worker import memory_limit
from dask_limits.exceptions import LimitRefusedError
from dask_limits.limits import Limits
from dask_limits.placement.queue import Request
from dask_limits.placement.resources import Refusal
from dask_limits.units import format_bytes, format_seconds

OWN_BYTES: Final = 256 * 2**20
"""What Dask's worker, its nanny and our own processes have of a batch job's memory: 200 MiB of
resident memory without any task (distributed 2026.8), and a quarter more to grow. A job's memory
limit is on all that runs in it; elsewhere a worker's is for what it is asked to run."""


def request_of(limits: Mapping[str, Any]) -> Request:
    """What a call with these limits reserves.

    Args:
        limits: As in a task's annotations.
    """
    try:
        known = Limits(**limits)
    except (TypeError, ValueError):
        return Request()  # what is wrong with them, the call says when it is run
    seconds = 0.0 if known.wall_time is None else known.wall_time + known.grace_period
    return Request(known.memory or 0, known.cores or 1, seconds)


def refused(name: str, limits: Mapping[str, Any], why: Refusal) -> LimitRefusedError:
    """The error of a call that can run nowhere.

    Args:
        name: Of its function.
        limits: As in its task's annotations.
        why: What it asks for, and what there is.
    """
    instead = "larger workers"
    if why.limit == "memory":
        asked = f"reserves {format_bytes(int(why.asked))} of memory"
        most = f"has more than {format_bytes(int(why.most))} for its calls"
    elif why.limit == "cores":
        asked, most = f"reserves {why.asked} cores", f"has more than {why.most}"
    else:
        asked = f"may take {format_seconds(why.asked)} by its wall_time and grace_period"
        most = f"has more than {format_seconds(why.most)} for a call"
        instead = "jobs that last longer"
    return LimitRefusedError(
        f"{name}() {asked}, and no worker, present or to be had, {most}. Lower the limit, or use"
        f" {instead}.",
        call=name,
        limits=Limits(**limits),
        limit=why.limit,
        asked=why.asked,
        most=why.most,
    )


@dataclass(frozen=True)
class Introduction:
    """What a worker tells the scheduler of itself.

    Attributes:
        memory: Bytes for limited calls; None if nothing limits them.
        cores: How many calls of one core it runs at one time.
        system: The batch system of the job that it runs in; empty if in none, or not known.
        job: The id of that job.
        ends_in: Seconds until the job ends; None if nothing ends it.
        age: Seconds since the worker's program was started, which is when the job began, or soon
            after.
    """

    memory: int | None
    cores: int
    system: str = ""
    job: str = ""
    ends_in: float | None = None
    age: float = 0


async def introduction(worker: distributed.Worker) -> Introduction:
    """What there is to tell of a worker."""
    memory = memory_limit(worker)
    cores = worker.state.nthreads
    job = current_job()
    if job is None:
        return Introduction(memory, cores)
    ends_in = await asyncio.to_thread(job.ends_in)  # it may ask the batch system
    if memory is not None:
        memory = max(memory - OWN_BYTES, 0)
    # A worker that its nanny has restarted is younger than the job; the nanny is not.
    program = psutil.Process(os.getppid() if worker.nanny else os.getpid())
    age = max(time.time() - program.create_time(), 0)
    return Introduction(memory, cores, job.system, job.job, ends_in, age)


def margin(length: float) -> float:
    """Seconds before the end of a batch job that are kept free, to leave in order.

    Within them results move to other workers, and calls without a limit on time come to their end
    if they can. Of a long job this is little; of one that is as short as a test's, not all.

    Args:
        length: Of the job, seconds.
    """
    return min(max(0.05 * length, 2), 60)
