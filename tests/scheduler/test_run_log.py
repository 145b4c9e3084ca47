"""What the log says of runs."""

from __future__ import annotations

import logging

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
    assert started == "Run started on ProcessExecutor: up to 2 calls"
    assert ended.startswith("Run ended (exhausted) after ")
    endings = sorted(ended.partition(": 5 calls submitted: ")[2].split(", "))
    assert endings == ["1 raised", "1 wall_time", "3 returned"]
    assert len(said(caplog, "dask_limits.calls")) == 1


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
    assert "abs() was submitted" in said(caplog, "dask_limits.run")
    assert any(line.startswith("abs() has returned") for line in said(caplog, "dask_limits.calls"))


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
