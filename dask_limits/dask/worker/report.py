"""What a worker reports to the scheduler: what it has for limited calls, and its batch job."""

from __future__ import annotations

import asyncio
import math
import os
import time

import distributed
import psutil

from dask_limits.batch_systems.current_job import BatchJob, current_job
from dask_limits.dask.compat.worker import memory_limit
from dask_limits.dask.reservations import job_resources
from dask_limits.placement.resources import WorkerResources


async def report(worker: distributed.Worker) -> tuple[WorkerResources, BatchJob]:
    """What a worker has, and the job that it runs in.

    Returns:
        The resources, whose `ends_at` is seconds from now; and the job, whose names are empty if
        there is none.
    """
    memory = memory_limit(worker) or math.inf
    cores = worker.state.nthreads
    job = current_job()
    if job is None:
        return WorkerResources(memory, cores), BatchJob("", "")
    ends_in = await asyncio.to_thread(job.ends_in)  # it may ask the batch system
    if ends_in is None:
        return job_resources(memory, cores), job
    # The job began when the worker's program was started, or shortly before. A worker that its
    # nanny has restarted is younger than the job; the nanny is not.
    program = psutil.Process(os.getppid() if worker.nanny else os.getpid())
    age = max(time.time() - program.create_time(), 0)
    return job_resources(memory, cores, max(ends_in + age, 0), ends_in), job
