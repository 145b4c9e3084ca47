"""What the log says of runs."""

from __future__ import annotations

import logging
from functools import partial

import pytest
from overdoing import wait_on

from dask_limits import PynisherPlugin, Retry, Scheduler


def said(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == logger]


def test_a_run_says_when_it_starts_and_ends_and_how_its_calls_ended(caplog) -> None:
    caplog.set_level(logging.INFO, "dask_limits")
    scheduler = Scheduler.with_processes(2)
    nap = scheduler.task(wait_on, plugins=PynisherPlugin(wall_time=0.2))

    @scheduler.on_start
    def submit() -> None:
        nap.submit()
        scheduler.submit(int, "x")
        for n in range(3):
            scheduler.submit(abs, n)

    scheduler.run(on_exception="continue")
    started, ended = said(caplog, "dask_limits.run")
    assert started == "Run started on 2 processes"
    assert ended.startswith("Run ended (exhausted) after ")
    endings = sorted(ended.partition(": 5 calls submitted: ")[2].split(", "))
    assert endings == ["1 raised", "1 wall_time", "3 returned"]
    assert len(said(caplog, "dask_limits.calls")) == 1


def test_a_run_without_a_call_says_that_and_what_to_do(caplog, capsys) -> None:
    """So does its display. One that was stopped needs no advice."""
    caplog.set_level(logging.INFO, "dask_limits")
    scheduler = Scheduler.with_threads(1)
    scheduler.run(display=True)
    what = "nothing was submitted: submit in a callback of @scheduler.on_start"
    assert said(caplog, "dask_limits.run")[-1].endswith(what)
    assert what in capsys.readouterr().out.splitlines()[-1]
    scheduler.on_start(scheduler.stop)
    scheduler.run(display=True)
    assert said(caplog, "dask_limits.run")[-1].endswith(": nothing was submitted")
    assert "@scheduler" not in capsys.readouterr().out


def test_a_run_that_is_interrupted_says_so(caplog) -> None:
    caplog.set_level(logging.INFO, "dask_limits")
    scheduler = Scheduler.with_threads(1)

    @scheduler.on_start
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scheduler.run()
    _, ended = said(caplog, "dask_limits.run")
    assert ended.startswith("Run ended (interrupted) after ")


def test_each_call_is_logged_for_debugging(caplog) -> None:
    caplog.set_level(logging.DEBUG, "dask_limits")
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(abs, plugins=PynisherPlugin(wall_time=60))
    scheduler.on_start(lambda: task.submit(-1))
    scheduler.run()
    assert "abs(-1) was submitted" in said(caplog, "dask_limits.run")
    assert any(
        line.startswith("abs(-1) has returned") for line in said(caplog, "dask_limits.calls")
    )


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def fail() -> None:
    raise Unspeakable


def test_a_retry_says_why_whatever_was_raised(caplog) -> None:
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(fail, plugins=Retry(max_retries=1, on=Unspeakable))
    scheduler.on_start(task.submit)
    scheduler.run(on_exception="continue")
    assert said(caplog, "dask_limits.calls") == ["fail() runs again, attempt 2: Unspeakable: "]


def test_callbacks_that_fail_are_counted_in_the_end_where_the_run_goes_on(caplog) -> None:
    scheduler = Scheduler.with_threads(1)
    scheduler.on_start(lambda: [scheduler.submit(abs, n) for n in range(3)] and None)
    scheduler.on_future_result(lambda future, result: 1 // (result - 1))
    scheduler.on_finished(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        scheduler.run()
    caplog.clear()
    scheduler.run(on_exception="continue")
    lines = said(caplog, "dask_limits.run")
    assert lines[:-1] == ["A callback raised an exception that the run does not raise"] * 2
    what = "Exceptions of callbacks that the run did not raise: 2. The log above has them."
    assert (caplog.records[-1].levelname, lines[-1]) == ("WARNING", what)


def test_what_came_from_the_journal_is_counted_apart(caplog, tmp_path) -> None:
    caplog.set_level(logging.INFO, "dask_limits")
    for n in (3, 5):
        scheduler = Scheduler.with_threads(1)
        scheduler.on_start(partial(scheduler.map, abs, range(n)))
        scheduler.run(journal=tmp_path / "run.sqlite")
    endings = said(caplog, "dask_limits.run")[-1].partition(": 5 calls submitted: ")[2]
    assert sorted(endings.split(", ")) == ["2 returned", "3 from the journal"]
