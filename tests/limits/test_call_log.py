"""What the log says of calls that end, where they run."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from overdoing import spin, wait_on

from dask_limits import Scheduler, limit
from dask_limits.exceptions import Breach, CrashError, LimitRefusedError
from dask_limits.limits import call_log


@pytest.fixture(autouse=True)
def no_other_warnings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_log, "_windows", {})


def lines(caplog: pytest.LogCaptureFixture, least: int = logging.DEBUG) -> list[str]:
    """What was logged of calls at this level or above."""
    of_calls = [one for one in caplog.records if one.name == "dask_limits.calls"]
    return [one.getMessage() for one in of_calls if one.levelno >= least]


def crash() -> None:
    os.kill(os.getpid(), 11)


@pytest.mark.parametrize("isolation", ["clean", "warm", "fresh", "thread"])
def test_a_breach_is_one_line_with_function_limit_usage_and_place(isolation, caplog) -> None:
    outcome = limit(wait_on, wall_time=0.2, isolation=isolation).run()
    assert isinstance(outcome.exception, Breach)
    [line] = lines(caplog)
    assert line.startswith("wait_on() went over its wall_time limit of 0.2 s: it took ")
    assert "\n" not in line
    assert "CPU" in line
    assert f"process {os.getpid()} of {os.uname().nodename}" in line
    assert not caplog.records[0].exc_info


def test_so_is_a_crash_an_exit_and_a_refusal(caplog) -> None:
    assert isinstance(limit(crash, wall_time=60).run().exception, CrashError)
    limit(sys.exit, wall_time=60).run(3)
    with pytest.raises(LimitRefusedError):
        limit(abs, memory="9 PiB")(1)
    crashed, exited, refused = lines(caplog, logging.WARNING)
    assert crashed.startswith("crash() crashed with SIGSEGV")
    assert exited.startswith("exit(3) ended its process with exit code 3")
    assert refused.startswith("abs(1) reserves 9.0 PiB")


def test_what_a_function_does_is_logged_for_debugging_alone(caplog) -> None:
    fails, works = limit(int, wall_time=60), limit(abs, wall_time=60)
    fails.run("x")
    works(1)
    assert lines(caplog) == []
    with caplog.at_level(logging.DEBUG, "dask_limits.calls"):
        fails.run("x")
        works(1)
    raised, returned = lines(caplog)
    assert raised.startswith("int('x') has raised [")
    assert returned.startswith("abs(1) has returned [")


def test_a_call_that_lets_its_warning_pass_has_breached(caplog) -> None:
    outcome = limit(wait_on, wall_time=0.2, grace_period=30).run()
    assert isinstance(outcome.exception, Breach)
    [line] = lines(caplog, logging.WARNING)
    assert line.startswith("wait_on() was warned of its wall_time limit, and has raised [")


def test_a_name_cannot_control_the_terminal_that_the_log_is_read_on(caplog) -> None:
    def clears() -> None:
        spin()

    clears.__name__ = "clear\x1b[2J\nERROR"
    limit(clears, cpu_time=0.1).run()
    [line] = lines(caplog)
    assert line.isprintable()


def test_of_thousands_of_a_kind_the_first_are_logged_and_the_last_of_these_says_so(caplog) -> None:
    scheduler = Scheduler.with_processes(1)
    too_large = limit(abs, memory="9 PiB")
    scheduler.on_start(lambda: [scheduler.submit(too_large, -n) for n in range(300)])
    caplog.set_level(logging.INFO, "dask_limits")
    scheduler.run(on_exception="continue")
    found = lines(caplog)
    assert len(found) == 100
    assert all("others like it are left out" not in line for line in found[:-1])
    assert "others like it are left out" in found[-1]
    assert "300 refused" in caplog.records[-1].getMessage()


def test_those_of_other_functions_are_logged_all_the_same(monkeypatch, caplog) -> None:
    monkeypatch.setattr(call_log, "_MOST", 1)
    for function in (abs, abs, len):
        limit(function, memory="9 PiB").run(-1)
    assert [line.partition("(")[0] for line in lines(caplog)] == ["abs", "len"]


def test_when_their_time_is_over_more_are_logged(monkeypatch, caplog) -> None:
    monkeypatch.setattr(call_log, "_MOST", 1)
    monkeypatch.setattr(call_log, "_WINDOW_S", 0.05)
    too_large = limit(abs, memory="9 PiB")
    too_large.run(-1)
    time.sleep(0.06)
    too_large.run(-1)
    assert len(lines(caplog)) == 2


def test_of_a_call_in_another_pool_the_program_tells_and_not_the_pool(caplog, tmp_path) -> None:
    log = tmp_path / "log"  # of this process, which processes of the pool are forked from
    handler = logging.FileHandler(log)
    call_log.logger.addHandler(handler)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            scheduler = Scheduler(pool)
            over = limit(wait_on, wall_time=0.2)
            scheduler.on_start(lambda: scheduler.submit(over))
            scheduler.run(on_exception="continue")
    finally:
        call_log.logger.removeHandler(handler)
        handler.close()
    [line] = lines(caplog)
    assert line.endswith("; another process]")
    assert log.read_text() == f"{line}\n"


def test_a_program_that_has_not_set_up_logging_prints_nothing_of_breaches(tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from dask_limits import limit\n"
        "print(limit(time.sleep, wall_time=0.1).run(60).exception is not None)\n"
    )
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("True\n", "")
