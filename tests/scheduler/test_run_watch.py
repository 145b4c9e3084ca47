"""What there is to see of a run, whatever shows it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
from scheduled import fail, on_start

from dask_limits import Display, PynisherPlugin, Retry, Scheduler, limit
from dask_limits.scheduler import scheduler as module

MIB = 2**20


class Shown:
    """A view that keeps what it is given, and calls something with each moment."""

    def __init__(self):
        self.moments, self.rows, self.on_moment, self.left = [], [], lambda moment: None, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.left = True

    def ended(self, ending, row):
        assert row().ending == ending
        self.rows.append(row())

    def show(self, moment):
        self.moments.append(moment(3))
        self.on_moment(self.moments[-1])
        return 0.05

    def end(self, last):
        self.last = last


@pytest.fixture
def shown(monkeypatch):
    view = Shown()
    monkeypatch.setattr(module, "view_for", lambda *_: view)
    return view


@pytest.fixture
def processes():
    return Scheduler.with_processes(2)


def busy(mib, *, until):
    block = b"x" * (mib * MIB)
    while not Path(until).exists():
        sum(range(1000))
    return len(block)


def test_a_running_call_is_shown_with_what_it_uses_of_its_limits(processes, shown, tmp_path):
    end = tmp_path / "end"
    call = limit(busy, memory="400 MiB", wall_time="10m", cpu_time=3600, num_processes=9)
    on_start(processes, call, 100, until=str(end))

    def end_when_seen(moment):
        if any((row.memory.used or 0) > 100 * MIB for row in moment.running):
            end.touch()

    shown.on_moment = end_when_seen
    processes.run(display=True)
    (row,) = shown.moments[-1].running
    assert (row.task, row.attempt, row.worker) == ("busy", 1, "")
    assert row.arguments.startswith("100, until='/") and len(row.arguments) < 120
    assert row.age > 0
    assert row.wall_time.limit == 600 and row.wall_time.used > 0
    assert row.cpu_time.limit == 3600 and row.cpu_time.used > 0
    assert row.memory.limit == 400 * MIB and 0.25 < row.memory.share < 0.5
    assert row.num_processes == (1, 9)
    assert row.share == row.memory.share
    assert shown.last.running == () and shown.last.counts == {"returned": 1}
    assert shown.last.state == "exhausted"


def test_the_calls_nearest_to_a_limit_are_shown_and_the_oldest_first(shown):
    threads, end, seen = Scheduler.with_threads(5), threading.Event(), []

    @threads.on_start
    def begin():
        for hours in (100, 1, 1000, 2, 10):
            threads.submit(limit(end.wait, wall_time=(hours, "h"), isolation="thread"), 60)

    def end_when_seen(moment):
        hours = [row.wall_time.limit / 3600 for row in moment.running]
        seen.append((hours, moment.n_running, moment.n_waiting))
        if seen[-1] == ([1, 2, 10], 5, 0):
            end.set()

    shown.on_moment = end_when_seen
    threads.run(display=True)
    assert ([1, 2, 10], 5, 0) in seen


def test_endings_are_counted_and_failures_kept_with_cause_and_place(processes, shown):
    def sleep():
        time.sleep(60)

    @processes.on_start
    def begin():
        processes.submit(limit(sleep, wall_time=0.1))
        processes.submit(fail, "full\x1b[2J\nof it")
        processes.submit(abs, -3)
        processes.submit(sleep).cancel()

    processes.run(display=True, on_exception="continue", on_cancelled="continue")
    last = shown.last
    assert last.counts == {"returned": 1, "raised": 1, "wall_time": 1, "cancelled": 1}
    assert last.n_ended == 4
    raised, breach = sorted(last.failures, key=lambda row: row.ending)
    assert (raised.task, raised.arguments) == ("fail", r"'full\x1b[2J\nof it'")
    assert raised.cause == r"ValueError: full\x1b[2J"
    assert raised.where.endswith("scheduled.py:7 in fail")
    assert breach.ending == "wall_time"
    assert breach.cause.startswith("went over its wall_time limit of 0.1 s: it took")
    assert breach.where.endswith("in sleep")
    assert {row.ending for row in shown.rows} == set(last.counts)


def test_the_time_left_is_known_where_the_number_of_calls_is(shown):
    def run(items, total=None):
        threads = Scheduler.with_threads(2)
        threads.on_start(lambda: threads.map(time.sleep, items, max_in_flight=2))
        shown.moments.clear()
        threads.run(display=Display(total=total))
        return [(m.n_left, m.time_left) for m in shown.moments if m.counts and m.state == "running"]

    of_a_list = run([0.01] * 40)
    assert all(0 <= left < 40 and 0 <= time_left < 40 for left, time_left in of_a_list)
    of_a_generator = run(0.01 for _ in range(40))
    assert set(of_a_generator) <= {(None, None)}
    of_a_total = run((0.01 for _ in range(40)), total=1000)
    assert all(960 <= left < 1000 for left, _ in of_a_total)
    assert of_a_list and of_a_generator and of_a_total


def test_a_retry_is_counted(processes, shown):
    task = processes.task(
        fail, plugins=[PynisherPlugin(wall_time=60), Retry(on=ValueError, max_retries=2)]
    )
    processes.on_start(lambda: task.submit())
    processes.run(display=True, on_exception="continue")
    assert shown.last.n_retries == 2
    assert shown.last.failures[0].attempts == 3


def test_arguments_are_asked_once_what_they_are(shown):
    asked = []

    class Argument:
        def __repr__(self):
            asked.append(self)
            return "argument"

    threads = Scheduler.with_threads(2)
    on_start(threads, lambda _: time.sleep(0.3), Argument(), times=2)
    threads.run(display=True)
    assert sum(len(moment.running) for moment in shown.moments) > 2
    assert [row.arguments for row in shown.rows] == ["argument", "argument"]
    assert len(asked) == 2


def test_a_run_goes_on_without_a_view_that_fails(shown, caplog):
    def break_(moment):
        raise OSError("no space left")

    shown.on_moment = break_
    threads = Scheduler.with_threads(2)
    results = []
    threads.on_future_result(lambda _, result: results.append(result))
    on_start(threads, abs, -3)
    with caplog.at_level(logging.WARNING, "dask_limits.run"):
        threads.run(display=True)
    assert results == [3]
    assert [r.getMessage() for r in caplog.records] == [
        "Cannot show the run any more: OSError('no space left')"
    ]


def test_ctrl_c_ends_the_calls_before_the_last_moment_is_shown(processes, shown):
    def interrupt(moment):
        if moment.n_running:
            raise KeyboardInterrupt

    shown.on_moment = interrupt
    on_start(processes, time.sleep, 600)
    with pytest.raises(KeyboardInterrupt):
        processes.run(display=True)
    assert shown.left
    assert shown.last.state == "interrupted"
    assert shown.last.counts == {"cancelled": 1} and shown.last.running == ()


class LostWorker(Exception):
    """One of the user's: `worker` is not what it is in ours."""

    worker = 5


class Quits:
    def __repr__(self):
        raise SystemExit


def lose(*_):
    raise LostWorker


def test_what_the_users_objects_are_like_does_not_end_the_view(shown, processes):
    processes.on_start(lambda: [processes.submit(lose), processes.submit(lose, Quits()), None][-1])
    assert processes.run(display=True, on_exception="continue").code == "exhausted"
    assert [row.ending for row in shown.rows] == ["raised", "raised"]
    assert {row.worker for row in shown.rows} == {""}
    assert {row.arguments for row in shown.rows} == {"", "<Quits>"}
    assert shown.last.counts == {"raised": 2}


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_view_that_fails_at_an_end_does_not_end_the_run(shown, processes, caplog, error):
    def fail_at_an_end(*_):
        raise error

    shown.ended = fail_at_an_end
    processes.on_start(lambda: processes.submit(lose))
    assert processes.run(display=True, on_exception="continue").code == "exhausted"
    assert shown.left
    assert "Cannot show the run any more" in caplog.text


def test_an_interrupt_of_the_first_moment_leaves_the_view(shown, processes):
    def interrupt(_):
        raise KeyboardInterrupt

    shown.on_moment = interrupt
    with pytest.raises(KeyboardInterrupt):
        processes.run(display=True)
    assert shown.left
