"""Whether jobs could ever hold a call, known before they are submitted."""

import dask
import pytest

from dask_limits import Limits, PynisherPlugin, Scheduler
from dask_limits.exceptions import LimitRefusedError


@pytest.mark.parametrize(
    ("limits", "limit", "most"),
    [
        (Limits(memory="1 GiB"), "memory", 768 * 2**20),
        (Limits(cores=5), "cores", 4),
        (Limits(wall_time="9 m", grace_period="1 m"), "wall_time", 540),
    ],
    ids=["memory", "cores", "time"],
)
def test_limits_that_no_job_can_hold_are_refused_with_both_figures(limits, limit, most):
    scheduler = Scheduler.with_pbs(cores=4, memory="1 GiB", walltime="10 m")
    with pytest.raises(LimitRefusedError, match=r"^fit\(\) ") as caught:
        scheduler.check_limits(limits, "fit")
    assert (caught.value.limit, caught.value.most) == (limit, most)
    assert caught.value.limits == limits


def test_what_a_configuration_file_says_of_jobs_counts():
    with dask.config.set({"jobqueue.pbs.walltime": "00:10:00", "jobqueue.pbs.memory": "4 GiB"}):
        scheduler = Scheduler.with_pbs(cores=1)
    scheduler.check_limits(Limits(memory="3 GiB", wall_time="5 m"))
    with pytest.raises(LimitRefusedError, match="7200 s"):
        scheduler.check_limits(Limits(wall_time="2 h"))


def test_a_scheduler_that_does_not_know_its_workers_accepts_all_limits():
    Scheduler.with_threads(1).check_limits(Limits(memory="900 TiB"))


def test_a_scheduler_with_processes_knows_this_machine():
    with pytest.raises(LimitRefusedError, match=r"^fit\(\) reserves 900\.0 TiB of memory, but "):
        Scheduler.with_processes(1).check_limits(Limits(memory="900 TiB"), "fit")


def test_what_is_no_limits_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match=r"is of type PynisherPlugin\. Use Limits\("):
        Scheduler.with_processes(1).check_limits(PynisherPlugin())
