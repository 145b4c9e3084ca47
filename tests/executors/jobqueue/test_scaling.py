"""How many jobs there should be, decided without any batch system or clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.batch_systems.job_state import JobState
from dask_limits.executors.jobqueue import JobSpec
from dask_limits.executors.jobqueue.demand import Work, workers_for
from dask_limits.executors.jobqueue.pooled_job import PooledJob
from dask_limits.executors.jobqueue.scaling import Failures, Surplus, jobs_wanted
from dask_limits.placement.resources import WorkerResources

GIB = 2**30
WORKER = WorkerResources(memory=4 * GIB, cores=4)


def spec(system="pbs", **options) -> JobSpec:
    return JobSpec(system, cores=4, memory="16 GiB", interface="lo", **options)


# -- how many workers the work could use ---------------------------------------------------


@pytest.mark.parametrize(
    ("work", "workers"),
    [
        ([], 0),
        ([Work()], 1),
        ([Work()] * 4, 1),  # one task on each core
        ([Work()] * 5, 2),
        ([Work(memory=GIB)] * 5, 2),  # the memory is enough for four
        ([Work(memory=3 * GIB)] * 5, 5),  # two never share a worker
        ([Work(memory=3 * GIB)] * 2 + [Work()] * 4, 3),
        ([Work(cores=3)] * 2, 2),
        ([Work(seconds=600)] * 20, 5),
        ([Work(seconds=1)] * 20, 1),  # one worker does them in five seconds
        ([Work(seconds=1)] * 21, 2),
        ([Work(seconds=0.01)] * 1000, 1),
        ([Work(seconds=0)] * 1000, 0),
    ],
)
def test_the_demand_is_for_as_many_workers_as_finish_the_work_in_time(work, workers):
    assert workers_for(work, WORKER, target_duration_s=5) == workers


def test_memory_that_nothing_limits_is_no_reason_for_a_worker():
    assert workers_for([Work(memory=10**15)] * 4, WorkerResources(cores=4), 5) == 1


WORK = st.builds(Work, st.integers(0, 4 * GIB), st.integers(1, 4), st.floats(0, 1e6))


@given(st.lists(WORK), WORK, st.floats(1, 1000))
def test_the_demand_is_at_most_a_worker_a_task_and_does_not_fall_with_more_work(work, more, target):
    demand = workers_for(work, WORKER, target)
    assert 0 <= demand <= len(work)
    assert demand <= workers_for([*work, more], WORKER, target) <= demand + 1


# -- how many jobs are wanted --------------------------------------------------------------


def test_until_a_worker_has_come_as_many_are_wanted_as_to_start_with():
    assert jobs_wanted(spec(n_workers=3), came=False, demand=0) == 3
    assert jobs_wanted(spec(n_workers=3, adaptive=10), came=False, demand=9) == 3


@pytest.mark.parametrize(("demand", "wanted"), [(0, 0), (3, 3)])
def test_a_fixed_number_is_kept_while_there_is_work_for_more(demand, wanted):
    assert jobs_wanted(spec(n_workers=3), came=True, demand=demand) == wanted


@pytest.mark.parametrize(("demand", "wanted"), [(0, 2), (2, 2), (5, 5), (20, 20), (1000, 20)])
def test_an_adaptive_number_follows_the_demand_between_its_bounds(demand, wanted):
    assert jobs_wanted(spec(adaptive=(2, 20)), came=True, demand=demand) == wanted


@pytest.mark.parametrize(("demand", "wanted"), [(0, 0), (1, 1), (4, 1), (5, 2), (99, 3)])
def test_a_job_with_several_workers_counts_as_these(demand, wanted):
    of_four = spec(processes=4, adaptive=12)
    assert jobs_wanted(of_four, came=True, demand=demand) == wanted
    assert jobs_wanted(spec(processes=4, n_workers=5), came=False, demand=0) == 2


def test_a_job_of_several_nodes_counts_as_a_worker_on_each():
    of_two = spec("slurm", nodes_per_job=2, adaptive=12)
    assert [jobs_wanted(of_two, came=True, demand=n) for n in (0, 1, 2, 3, 99)] == [0, 1, 1, 2, 6]


# -- which jobs are given back -------------------------------------------------------------


def jobs(*idle_since: float | str | None) -> list[PooledJob]:
    """Jobs whose workers are idle since then, busy (None), or have not come ("pending")."""
    return [
        PooledJob(f"pbs-{n}")
        if since == "pending"
        else PooledJob(f"pbs-{n}", came=True, idle_since=since)
        for n, since in enumerate(idle_since)
    ]


def chosen(surplus: Surplus, pool: list[PooledJob], wanted: int, now: float) -> list[int]:
    return [pool.index(job) for job in surplus.choose(pool, wanted, now)]


def test_workers_that_are_idle_for_long_enough_are_given_back_and_no_busy_ones():
    pool = jobs(None, 100, 170, None)
    surplus = Surplus(keep_idle_s=60)
    assert chosen(surplus, pool, wanted=1, now=159) == []
    assert chosen(surplus, pool, wanted=1, now=160) == [1]
    assert chosen(surplus, pool, wanted=1, now=230) == [1, 2]
    assert chosen(surplus, pool, wanted=0, now=1e6) == [1, 2]


def test_no_more_are_given_back_than_are_not_wanted():
    pool = jobs(0, 0, 0)
    assert chosen(Surplus(60), pool, wanted=2, now=100) == [0]
    assert chosen(Surplus(60), pool, wanted=3, now=100) == []
    assert chosen(Surplus(60), pool, wanted=5, now=100) == []


def test_jobs_that_have_brought_no_worker_go_first_when_they_were_not_wanted_for_long_enough():
    pool = jobs(0, "pending", "pending")
    surplus = Surplus(keep_idle_s=60)
    assert chosen(surplus, pool, wanted=1, now=100) == [0]
    assert chosen(surplus, pool, wanted=1, now=159) == [0]
    assert chosen(surplus, pool, wanted=1, now=160) == [1, 2]


def test_the_time_starts_anew_when_all_were_wanted_meanwhile():
    pool = jobs(None, "pending")
    surplus = Surplus(keep_idle_s=60)
    assert chosen(surplus, pool, wanted=1, now=100) == []
    assert chosen(surplus, pool, wanted=2, now=150) == []
    assert chosen(surplus, pool, wanted=1, now=165) == []
    assert chosen(surplus, pool, wanted=1, now=224) == []
    assert chosen(surplus, pool, wanted=1, now=225) == [1]


def test_nothing_is_given_back_for_good_where_idle_workers_are_kept_for_ever():
    assert chosen(Surplus(math.inf), jobs(0, "pending"), wanted=0, now=1e9) == []


# -- when to try again, and when to give up ------------------------------------------------


def refused() -> PooledJob:
    return PooledJob("pbs-0", submit_error=RuntimeError("no such queue"))


def ended() -> PooledJob:
    return PooledJob("pbs-0", id="17", state=JobState("17", state="FAILED"))


def test_the_delay_doubles_up_to_a_minute_and_is_short_again_once_a_worker_has_come():
    failures = Failures()
    delays = []
    for _ in range(9):
        failures.add([ended()], now=1000)
        delays.append(failures.retry_at - 1000)
    assert delays == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    failures.clear()
    assert failures.jobs == []
    failures.add([ended()], now=2000)
    assert failures.retry_at == 2001


def test_jobs_that_fail_together_delay_once_and_all_count():
    failures = Failures()
    failures.add([ended(), ended()], now=0)
    assert failures.retry_at == 1
    assert not failures.reason_to_give_up(came=False)
    failures.add([ended()], now=1)
    assert failures.reason_to_give_up(came=False) == "3 jobs in a row ended without a worker"


def test_when_no_job_can_be_submitted_at_first_it_is_not_tried_again():
    failures = Failures()
    assert not failures.reason_to_give_up(came=False)
    failures.add([refused()], now=0)
    assert failures.reason_to_give_up(came=False) == "No job could be submitted"
    assert not failures.reason_to_give_up(came=True)
    failures.add([ended()], now=0)
    assert not failures.reason_to_give_up(came=False)  # one was submitted


def test_once_there_were_workers_it_is_tried_for_two_minutes():
    failures = Failures()
    now = 0.0
    while not failures.reason_to_give_up(came=True):
        now = max(now, failures.retry_at)
        failures.add([refused(), refused()], now)
    assert len(failures.jobs) == 16
    assert now == 1 + 2 + 4 + 8 + 16 + 32 + 64
    assert failures.reason_to_give_up(came=True) == "16 jobs in a row ended without a worker"
