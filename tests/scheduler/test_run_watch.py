"""What there is to see of a run, whatever shows it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
from scheduled import fail, on_start

from dask_limits import Display, PynisherPlugin, Retry, Scheduler, limit
from dask_limits.scheduler import run_watch
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

    seen = []

    def end_when_seen(moment):
        if any((row.memory.used or 0) > 100 * MIB for row in moment.running):
            seen.extend(moment.running)
            end.touch()

    shown.on_moment = end_when_seen
    processes.run(display=True)
    row = seen[0]
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


def test_the_time_left_is_known_where_the_number_of_calls_is(shown, monkeypatch):
    monkeypatch.setattr(run_watch, "_LEAST_FOR_REST_S", 0)

    def run(items, total=None):
        threads = Scheduler.with_threads(2)
        threads.on_start(lambda: threads.map(time.sleep, items, max_in_flight=2))
        shown.moments.clear()
        threads.run(display=Display(total=total))
        return [
            (m.n_left, m.time_left)
            for m in shown.moments
            if m.n_ended >= 5 and m.state == "running"
        ]

    of_a_list = run([0.01] * 40)
    assert all(0 <= left < 40 and 0 <= time_left < 40 for left, time_left in of_a_list)
    of_a_generator = run(0.01 for _ in range(40))
    assert set(of_a_generator) <= {(None, None)}
    of_a_total = run((0.01 for _ in range(40)), total=1000)
    assert all(960 <= left < 1000 for left, _ in of_a_total)
    assert of_a_list and of_a_generator and of_a_total


def test_the_time_left_is_not_said_before_there_is_enough_to_go_by(shown, monkeypatch):
    """The first calls that end are the short ones, and have waited for processes to start."""
    monkeypatch.setattr(run_watch, "_LEAST_FOR_REST", 8)
    threads = Scheduler.with_threads(2)
    threads.on_start(lambda: threads.map(time.sleep, [0.2] * 40, max_in_flight=2))
    threads.run(display=True)
    early = [m for m in shown.moments if m.state == "running" and (m.n_ended < 8 or m.elapsed < 3)]
    late = [m for m in shown.moments if m.state == "running" and m.n_ended >= 9 and m.elapsed > 3.1]
    assert {m.time_left for m in early} == {None}
    assert any(m.n_left and m.rate for m in early), "the rest is known by then"
    assert late and all(m.time_left is not None for m in late)


def test_when_it_is_over_its_rate_is_that_of_the_whole_run(shown):
    """A run that becomes slower ends with the rate of its last calls otherwise."""
    threads = Scheduler.with_threads(1)
    threads.on_start(lambda: threads.map(time.sleep, [0.0] * 100 + [0.5] * 2))
    threads.run(display=True)
    assert shown.last.rate == pytest.approx(102 / shown.last.elapsed)
    assert shown.last.is_over and not shown.moments[-1].is_over


def test_of_a_run_that_is_interrupted_the_rate_is_without_what_it_has_cancelled(shown):
    """They ended all at once."""
    threads = Scheduler.with_threads(1)

    @threads.on_start
    def begin():
        threads.submit(abs, -1)
        for _ in range(100):
            threads.submit(time.sleep, 0.2)

    threads.on_future_result(lambda *_: threads.stop())
    threads.run(display=True, wait=False, on_cancelled="continue")
    done = shown.last.n_ended - shown.last.counts["cancelled"]
    assert done < 50
    assert shown.last.rate == pytest.approx(done / shown.last.elapsed)


def test_a_retry_is_counted(processes, shown):
    task = processes.task(
        fail, plugins=[PynisherPlugin(wall_time=60), Retry(on=ValueError, max_retries=2)]
    )
    processes.on_start(lambda: task.submit())
    processes.run(display=True, on_exception="continue")
    assert shown.last.n_retries == 2
    assert shown.last.failures[0].attempts == 3


def test_arguments_are_asked_what_they_are_once_for_the_view_and_once_for_the_report(shown):
    asked, end = [], threading.Event()

    class Argument:
        def __repr__(self):
            asked.append(self)
            return "argument"

    def end_when_seen(_):
        if sum(len(moment.running) for moment in shown.moments) > 2:
            end.set()

    shown.on_moment = end_when_seen
    threads = Scheduler.with_threads(2)
    on_start(threads, lambda _: end.wait(60), Argument(), times=2)
    threads.run(display=True)
    assert end.is_set()
    assert [row.arguments for row in shown.rows] == ["argument", "argument"]
    assert len(asked) == 4


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


def test_what_comes_back_from_a_journal_is_no_part_of_failures_and_rate(shown, tmp_path):
    def run(n):
        scheduler = Scheduler.with_threads(1)
        task = scheduler.task(fail)
        scheduler.on_start(lambda: [task.submit(str(k)) for k in range(n)] and None)
        scheduler.run(
            journal=tmp_path / "run.sqlite", display=Display(total=9), on_exception="continue"
        )
        return shown.last

    first, again, more = run(3), run(3), run(5)
    assert (first.counts, first.n_from_journal, len(first.failures)) == ({"raised": 3}, 0, 3)
    assert (again.counts, again.n_from_journal, again.failures) == ({}, 3, ())
    assert (again.rate, again.n_left, again.n_known) == (0, 6, 3)
    assert (more.counts, more.n_from_journal, len(more.failures)) == ({"raised": 2}, 3, 2)
    assert more.rate == 2 / more.elapsed
    assert [row.ending for row in shown.rows].count("from the journal") == 6
