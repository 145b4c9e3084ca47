from __future__ import annotations

import os
import pickle
import sys
import threading
import time

import cloudpickle
import pytest
from processes import until

from dask_limits.dask.worker.batch_run import BatchRun
from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


def test_calls_that_never_came_cannot_be_cancelled():
    run = BatchRun([0, 2])
    run.cancel([1, 2])
    assert [run.tokens[number].cancelled for number in (0, 2)] == [False, True]


@pytest.fixture
def guardian():
    with Guardian() as guardian:
        yield guardian


@pytest.mark.parametrize("isolation", ["clean", "fresh", "thread"])
def test_each_call_of_a_batch_has_its_outcome(guardian, isolation):
    limits = Limits(wall_time=60, isolation=isolation)
    run = BatchRun(range(20))
    outcome = run.run(lambda n: (abs, (-n,)), limits, guardian.steps, lambda *_: False)
    ended = {number: end.unpack({}).result() for number, end in outcome.ended.items()}
    assert ended == {n: n for n in range(20)}


def test_a_batch_that_takes_long_tells_what_has_ended_and_gives_back_what_waits(guardian, tmp_path):
    go_on = tmp_path / "go on"

    def call(number):
        while number == 5 and not go_on.exists():
            time.sleep(0.01)
        return number

    run, outcomes = BatchRun(range(10)), []
    arguments = Limits(wall_time=60, isolation="warm"), guardian.steps, lambda *_: False
    thread = threading.Thread(
        target=lambda: outcomes.append(run.run(lambda n: (call, (n,)), *arguments))
    )
    thread.start()
    until(lambda: len(run._ended) == 5 and len(run._waiting) == 4)
    report = run.report()
    assert report["left"] == [5]
    assert report["given_back"] == [6, 7, 8, 9]
    assert sorted(pickle.loads(report["outcome"]).ended) == [0, 1, 2, 3, 4]
    go_on.touch()
    thread.join()
    assert list(outcomes[0].ended) == [5]


def test_a_call_that_is_lost_with_its_guardian_runs_again(guardian, tmp_path):
    losses = []

    def lose_guardian(number):
        file = tmp_path / str(number)
        if number == 2 and not file.exists():
            file.touch()
            os.kill(os.getppid(), 9)  # the template
            time.sleep(60)
        return number

    def runs_again(number, outcome):
        is_lost = outcome.unpack({}).exception is not None
        if is_lost:
            losses.append(number)
        return is_lost

    limits = Limits(wall_time=60, isolation="warm")
    run = BatchRun(range(4))
    outcome = run.run(lambda n: (lose_guardian, (n,)), limits, guardian.steps, runs_again)
    assert losses == [2]
    assert {number: end.unpack({}).result() for number, end in outcome.ended.items()} == {
        n: n for n in range(4)
    }
