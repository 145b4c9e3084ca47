"""What a scheduler knows of its calls after a run. See tests/report and test_contract, too."""

from __future__ import annotations

import os
import time
from pathlib import Path

from processes import wait_for

from dask_limits import Limiter, PynisherPlugin, Retry, Scheduler


def nap_after(path: Path) -> None:
    wait_for(path)
    time.sleep(0.1)


def signal_and_wait(path: Path) -> None:
    path.touch()
    time.sleep(60)


def test_it_has_the_calls_of_all_runs(scheduler):
    """A scheduler can run again."""
    scheduler.on_start(lambda: [scheduler.submit(abs, -n) for n in range(3)] and None)
    scheduler.run()
    before = scheduler.report()
    scheduler.run()
    assert (len(before), len(scheduler.report())) == (3, 6)
    assert {row.task for row in scheduler.report()} == {"abs"}


def test_a_call_that_was_retried_is_one_row_about_its_last_attempt():
    """Its limits are those of that attempt, too."""
    scheduler = Scheduler.with_processes(1)
    plugins = PynisherPlugin(wall_time=0.2), Retry(max_retries=2, wall_time_factor=100)
    task = scheduler.task(time.sleep, plugins=plugins)
    scheduler.on_start(lambda: task.submit(0.5))
    scheduler.run()
    (row,) = scheduler.report()
    assert (row.task, row.ending, row.attempts) == ("sleep", "returned", 2)
    assert row.wall_time_limit == 20.0
    assert row.wall_time >= 0.5
    assert row.started - row.submitted >= 0.2


def test_calls_that_a_plugin_holds_have_rows(tmp_path):
    """They were submitted earlier than they were started."""
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(nap_after, plugins=Limiter(max_concurrent=1, when_full="wait"))
    all_are_submitted = tmp_path / "all are submitted"

    @scheduler.on_start
    def begin():
        for _ in range(3):
            task.submit(all_are_submitted)
        all_are_submitted.touch()

    scheduler.run()
    rows = list(scheduler.report())
    assert [row.ending for row in rows] == ["returned"] * 3
    assert rows[2].started - rows[2].submitted >= 0.2


def test_of_a_running_call_that_is_cancelled_the_start_is_known(tmp_path):
    """It is there for the timeline."""
    scheduler = Scheduler.with_processes(1)
    path = tmp_path / "begun"

    @scheduler.on_start
    def begin():
        future = scheduler.submit(signal_and_wait, path)
        wait_for(path)
        future.cancel()

    scheduler.run(on_cancelled="continue")
    (row,) = scheduler.report()
    assert row.ending == "cancelled"
    assert row.submitted <= row.started <= row.ended
    assert row.cpu_time is None


def test_a_callback_can_look_at_what_has_ended_so_far(scheduler):
    """The call that it is told of is there."""
    seen = []
    scheduler.on_start(lambda: [scheduler.submit(os.getpid) for _ in range(3)] and None)
    scheduler.on_future_result(lambda *_: seen.append(len(scheduler.report())))
    scheduler.run()
    assert seen == [1, 2, 3]


def test_the_key_of_a_row_is_that_of_the_future(scheduler):
    """So what was submitted can be found again."""
    arguments = {}

    @scheduler.on_start
    def begin():
        for n in range(3):
            arguments[scheduler.submit(abs, -n).key] = n

    scheduler.run()
    assert {arguments[row.key] for row in scheduler.report()} == {0, 1, 2}
