"""Jobs of several nodes, with a worker on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from processes import until
from real_slurm import Slurm
from slurm_faults import Run, above

NewRun = Callable[..., Run]


def test_one_job_brings_a_worker_on_each_of_its_nodes(slurm: Slurm, new_run: NewRun):
    run = new_run(n_workers=2, nodes_per_job=2)
    with run.going():
        until(lambda: len(run.added) == 2)
        run.submit(range(6), "opened")
        begun = run.wait_for(4)  # two cores each, and no more
        (job,) = slurm.jobs()
        about = slurm.job(job)
        run.open("opened")
    assert about["NumNodes"] == "2"
    assert {one.job for one in begun} == {job}
    assert sorted(worker.name for worker in run.added) == ["slurm-0-0", "slurm-0-1"]
    assert {(worker.job, worker.cores) for worker in run.added} == {(job, 2)}
    assert [worker.memory for worker in run.added] == [768 << 20] * 2
    assert set(Counter(above_worker(future.worker) for future in run.futures.values())) == {0, 1}


def above_worker(name: str | None) -> int:
    assert name is not None
    return int(name.rpartition("-")[2])


def test_the_calls_of_a_job_of_two_nodes_run_again_when_it_is_lost(slurm: Slurm, new_run: NewRun):
    run = new_run(n_workers=2, nodes_per_job=2)
    with run.going():
        until(lambda: len(run.added) == 2)
        run.submit(range(4), "opened")
        job = run.wait_for(4)[0].job
        slurm.run("scancel", job)
        until(lambda: len(run.reruns) == 4, 40)
        until(lambda: len(run.added) == 4, 40)  # one job again, with two workers
        assert len(slurm.jobs()) == 1
        run.open("opened")
    assert run.told() == dict.fromkeys(range(4), f"job {job} is CANCELLED")


def test_a_worker_of_a_job_of_two_nodes_goes_on_when_the_other_is_lost(
    slurm: Slurm, new_run: NewRun
):
    run = new_run(n_workers=2, nodes_per_job=2)
    with run.going():
        until(lambda: len(run.added) == 2)
        run.submit(range(4), "opened")
        begun = run.wait_for(4)
        nannies = {one.number: above(one.pid)["nanny"] for one in begun}
        first = nannies[0]
        lost = {number for number, nanny in nannies.items() if nanny == first}
        first.kill()
        until(lambda: len(run.removed) == 1, 40)
        run.open("opened")
    assert run.told().keys() == lost
    assert len(lost) == 2
    assert len(run.added) == 2


def test_a_job_of_two_nodes_is_given_back_when_both_are_idle(slurm: Slurm, new_run: NewRun):
    adaptive = {"minimum": 0, "maximum": 4, "keep_idle": 1}
    run = new_run(nodes_per_job=2, n_workers=2, adaptive=adaptive)
    with run.going():
        until(lambda: len(run.added) == 2)
        run.submit(range(2))
        until(lambda: not slurm.jobs(), 40)
        run.submit(range(2, 4))
        until(lambda: len(run.added) == 4, 40)
    assert not run.reruns


def test_a_node_that_fails_takes_the_whole_job_and_another_one_follows(
    slurm: Slurm, new_run: NewRun
):
    run = new_run(n_workers=2, nodes_per_job=2)
    with run.going():
        until(lambda: len(run.added) == 2)
        run.submit(range(4), "opened")
        run.wait_for(4)
        slurm.node_down("n2")
        until(lambda: len(run.removed) == 2, 60)
        slurm.node_up("n2")
        until(lambda: len(run.added) == 4, 60)
        run.open("opened")
    assert run.told().keys() == {0, 1, 2, 3}
