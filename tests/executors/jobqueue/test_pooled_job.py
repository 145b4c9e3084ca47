"""What a job pool concludes about one of its jobs. The clock is an argument."""

from __future__ import annotations

import pytest

from dask_limits.batch_systems.job_state import JobState
from dask_limits.executors.jobqueue.pooled_job import PooledJob


def refused() -> PooledJob:
    return PooledJob("pbs-0", submit_error=RuntimeError("no such queue"))


def ended() -> PooledJob:
    return PooledJob("pbs-0", id="17", state=JobState("17", state="FAILED"))


def waiting(reason: str) -> JobState:
    return JobState("17", state="PENDING", reason=reason)


@pytest.mark.parametrize(
    ("job", "now", "has_ended"),
    [
        (refused(), 0, True),
        (ended(), 0, True),
        (PooledJob("a", id="17"), 1e9, False),  # nothing is known of it
        (PooledJob("a", id="17", state=JobState("17", state="PENDING")), 1e9, False),
        (PooledJob("a", id="17", came=True, away_since=100), 130, False),
        (PooledJob("a", id="17", came=True, away_since=100), 131, True),
        (
            PooledJob("a", came=True, away_since=100, state=JobState("17", state="REQUEUED")),
            1e9,
            False,
        ),
        (PooledJob("a", id="17", came=True, away_since=100, leaves=True), 100, True),
    ],
)
def test_when_no_worker_will_come_from_a_job(job, now, has_ended):
    assert job.has_ended(now) == has_ended


def test_what_is_told_of_a_job_has_the_name_of_its_worker():
    assert PooledJob("pbs-0", id="17").public_state() == JobState("17", name="pbs-0")
    assert ended().public_state() == JobState("17", name="pbs-0", state="FAILED")


def test_a_worker_is_idle_since_it_was_last_seen_busy():
    job = PooledJob("slurm-0", id="17", state=waiting("Resources"))
    job.note_worker(100, busy=True)
    assert (job.came, job.state, job.idle_since) == (True, None, None)
    job.note_worker(101, busy=False)
    job.note_worker(102, busy=False)
    assert job.idle_since == 101
    assert not job.has_ended(130)
    assert job.has_ended(133)
    job.note_worker(134, busy=True)
    assert job.idle_since is None


def test_a_job_that_waits_for_what_may_never_pass_is_asked_about_after_a_while_and_then_again():
    job = PooledJob("slurm-0", id="17")
    for now in (100, 105, 109):
        job.note_state(waiting("PartitionTimeLimit"), now)
        assert not job.may_be_stuck(now)
    assert job.may_be_stuck(110)
    job.stuck_since = 110  # SLURM has been asked, and it may start
    assert not job.may_be_stuck(119)
    assert job.may_be_stuck(120)
    job.why_stuck = "The time limit is above that of the partition."
    assert not job.may_be_stuck(1e9)


@pytest.mark.parametrize("state", [waiting("Resources"), JobState("17", state="RUNNING")])
def test_a_job_is_not_stuck_any_more_when_its_reason_has_passed(state):
    job = PooledJob("slurm-0", id="17")
    job.note_state(waiting("PartitionTimeLimit"), 100)
    job.why_stuck = "The time limit is above that of the partition."
    job.note_state(state, 120)
    assert job.why_stuck == ""
    job.note_state(waiting("PartitionTimeLimit"), 130)
    assert not job.may_be_stuck(139)
    assert job.may_be_stuck(140)
    job.note_worker(141, busy=False)
    assert not job.may_be_stuck(1e9)
