"""What a recorder takes down, and how little that may cost."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import pytest
from lines import at_line

from dask_limits import Usage, exceptions, limit
from dask_limits.report import Recorder
from dask_limits.report.recorder import _CHUNK


def fit() -> None:
    """A task."""


@dataclass
class Ended:
    """A future of a call that has ended."""

    error: BaseException | None = None
    usage: Usage | None = None
    key: str = "17"
    attempts: int = 1
    worker: str = ""
    job: str = ""
    submitted_at: float = 0.0
    started_at: float | None = None
    is_cancelled: bool = False

    def exception(self) -> BaseException | None:
        if self.is_cancelled:
            raise CancelledError
        return self.error


def used(seconds: float = 1.0, mib: int = 10) -> Usage:
    return Usage(seconds, seconds / 2, mib * 2**20, 2, started=time.time() - seconds)


def only_row(future: Ended, fn: Any = fit) -> Any:
    recorder = Recorder()
    recorder.add(fn, str, future)
    (row,) = recorder.report()
    return row


def test_a_row_has_all_that_is_known_of_a_call() -> None:
    """Limits, usage, times and places are those of the call."""
    limits = {"memory": "1 GiB", "wall_time": 60, "cpu_time": 30, "num_processes": 4, "cores": 2}
    future = Ended(None, used(), "fit-0f3c-17", 3, "w1", "job7", time.time() - 2)
    row = only_row(future, limit(fit, **limits))
    assert (row.task, row.key, row.ending, row.cause) == ("fit", "fit-0f3c-17", "returned", "")
    assert (row.wall_time, row.cpu_time, row.peak_memory, row.num_processes) == (
        *(1.0, 0.5, 10 * 2**20, 2),
    )
    assert (row.memory_limit, row.wall_time_limit, row.cpu_time_limit) == (2**30, 60.0, 30.0)
    assert (row.num_processes_limit, row.cores) == (4, 2)
    assert (row.worker, row.job, row.attempts) == ("w1", "job7", 3)
    assert row.submitted < row.started < row.ended == row.started + 1


def test_what_is_not_known_is_none() -> None:
    """So it is of a call without limits that was cancelled before it began."""
    row = only_row(Ended(is_cancelled=True))
    assert row.ending == "cancelled"
    unknown = {"wall_time", "cpu_time", "peak_memory", "num_processes", "memory_limit", "started"}
    unknown |= {"wall_time_limit", "cpu_time_limit", "num_processes_limit", "cores"}
    assert {name for name, value in row._asdict().items() if value is None} == unknown


def test_of_a_call_that_was_cancelled_while_it_ran_the_times_are_known() -> None:
    """Its usage comes later, if at all."""
    began = time.time() - 5
    row = only_row(Ended(is_cancelled=True, started_at=began))
    assert (row.ending, row.started, row.cpu_time) == ("cancelled", began, None)
    assert 5 <= row.wall_time < 60
    assert row.ended == row.started + row.wall_time


ENDS = {
    "raised": (ValueError("no"), "ValueError: no"),
    "breach": (exceptions.MemoryBreach("over"), "memory"),
    "crashed": (exceptions.CrashError("crashed", signal=11), "SIGSEGV"),
    "exited": (exceptions.ExitError("left", exit_code=3), "exit code 3"),
    "refused": (exceptions.LimitRefusedError("none has it", limit="cores"), "cores"),
    "lost": (exceptions.WorkerLostError("lost", cause="its job was killed"), "its job was killed"),
    "failed": (exceptions.CallPicklingError("a lock"), "CallPicklingError: a lock"),
}


@pytest.mark.parametrize("ending", ENDS)
def test_the_ending_and_its_cause_are_told_apart(ending: str) -> None:
    """Each way to end is a word, and has its cause."""
    error, cause = ENDS[ending]
    row = only_row(Ended(error))
    assert (row.ending, row.cause) == (ending, cause)


def test_where_a_call_was_is_the_innermost_line_of_its_own() -> None:
    """It is read from stacks, from a traceback that came as text, or from one."""
    stacks = 'Current thread 0x1 (most recent call first):\n  File "a.py", line 3 in wait\n'
    stacks += '  File "b.py", line 9 in fit'
    row = only_row(Ended(exceptions.WallTimeBreach("late", stacks=stacks)))
    assert row.where == "a.py:3 in wait"
    error = ValueError("no")
    error.__cause__ = exceptions.RemoteTraceback(
        'Traceback (most recent call last):\n  File "b.py", line 9, in fit\n    look()\n'
        '  File "a.py", line 3, in look\n    raise ValueError("no")\nValueError: no\n'
    )
    assert only_row(Ended(error)).where == "a.py:3 in look"
    try:
        int("x")
    except ValueError as raised:
        assert only_row(Ended(raised)).where.endswith(f"in {_this_function()}")


def _this_function() -> str:
    return sys._getframe(1).f_code.co_name


def test_a_row_has_the_arguments_of_its_call() -> None:
    """In short, in a line that can be printed; nothing says that there were none."""
    recorder = Recorder()
    recorder.add_call((fit, (10, "a\nb"), {"depth": 3}), Ended(ValueError("no")))
    recorder.add_call((fit, (bytes(10**6),), {}), Ended(None, used()))
    recorder.add_call((fit, (), {}), Ended(None, used()))
    shown = ["10, 'a\\nb', depth=3", "b'" + "\\x00" * 8 + "\\x0...", ""]
    assert [row.arguments for row in recorder.report()] == shown


def test_arguments_of_calls_that_did_not_return_have_more_room_and_causes_have_the_rest() -> None:
    """So neither a million calls that return nor as many that fail hide why one failed."""
    recorder = Recorder(most_texts=40)
    for n in range(100):
        recorder.add_call((fit, (n,), {}), Ended(None, used()))
    for n in range(100, 200):
        recorder.add_call((fit, (n,), {}), Ended(exceptions.MemoryBreach("over")))
    recorder.add_call((fit, (200,), {}), Ended(ValueError("no")))
    rows = list(recorder.report())
    known = [row.arguments for row in rows if row.arguments != "..."]
    assert 10 <= sum(int(text) < 100 for text in known) <= 20
    assert 5 <= sum(int(text) >= 100 for text in known) <= 10
    assert rows[-1].cause == "ValueError: no"


def test_arguments_are_not_asked_for_when_there_is_no_room() -> None:
    """What a class of the user says of itself may cost something."""
    asked = []
    recorder = Recorder(most_texts=20)
    for n in range(100):
        recorder.add(fit, lambda n=n: asked.append(n) or f"{n}", Ended(None, used()))
    assert 5 <= len(asked) <= 10


def test_a_worker_that_was_lost_is_that_of_the_row() -> None:
    """Nobody else says where the call ran."""
    row = only_row(Ended(exceptions.WorkerLostError("lost", worker="w3", job="12")))
    assert (row.worker, row.job) == ("w3", "12")


def test_names_and_messages_cannot_control_a_terminal() -> None:
    """Whoever writes a function, or raises, has chosen them."""
    row = only_row(Ended(ValueError("\x1b[2J\nno"), worker="w\x1b"))
    assert (row.cause, row.worker) == ("ValueError: \\x1b[2J\\nno", "w\\x1b")


def test_an_exception_that_cannot_be_printed_has_a_row() -> None:
    """Its class may be the user's own."""

    class OddError(Exception):
        def __str__(self) -> str:
            raise TypeError

    assert only_row(Ended(OddError())).cause == "OddError"


@pytest.mark.parametrize("wall_time", [1e300, -5.0, float("nan")])
@pytest.mark.parametrize("started", [1e300, -1.0, float("nan")])
def test_times_that_cannot_be_are_not_recorded(wall_time: float, started: float) -> None:
    """A call can write to the notes of its process."""
    usage = Usage(wall_time, 0.0, 2**80, 2**40, started=started)
    row = only_row(Ended(None, usage))
    assert 0 <= row.wall_time <= row.ended
    assert abs(row.started - time.time()) < 3600
    assert abs(row.ended - time.time()) < 3600
    assert (row.peak_memory, row.num_processes) == (2**63 - 1, 2**32 - 1)


def test_rows_beyond_the_bound_are_summed_up() -> None:
    """Nothing is missing from the table."""
    recorder = Recorder(most_rows=2 * _CHUNK)
    for n in range(3 * _CHUNK + 5):
        recorder.add(fit, str, Ended(None if n % 2 else ValueError("no"), used()))
    report = recorder.report()
    assert (len(report), report.n_older) == (2 * _CHUNK + 5, _CHUNK)
    table = repr(report)
    assert "30,005 calls" in table
    assert "15,003 raised, 15,002 returned" in table
    assert "the first 10,000 have no rows any more" in table


def test_a_report_does_not_change_any_more() -> None:
    """Neither rows nor sums come to it later."""
    recorder = Recorder(most_rows=_CHUNK)
    for _ in range(2 * _CHUNK):
        recorder.add(fit, str, Ended(None, used()))
    report = recorder.report()
    before = repr(report)
    for _ in range(2 * _CHUNK):
        recorder.add(fit, str, Ended(None, used()))
    assert (len(report), repr(report)) == (_CHUNK, before)


def test_many_different_messages_are_recorded_by_the_types_of_their_exceptions() -> None:
    """A message may have a number in it that is never the same."""
    recorder = Recorder(most_texts=100)
    for n in range(1000):
        recorder.add(fit, str, Ended(ValueError(n), key=f"a-{n}", worker=f"worker{n}"))
    causes = Counter(row.cause for row in recorder.report())
    assert causes["ValueError: 3"] == 1
    assert causes["ValueError"] > 900
    assert len({row.worker for row in recorder.report()}) < 200
    assert len({row.key for row in recorder.report()}) == 1000


def test_no_row_of_several_threads_is_lost() -> None:
    """An executor may end calls in any thread."""
    recorder = Recorder(most_rows=2 * _CHUNK)

    def add(name: str) -> None:
        for n in range(8000):
            recorder.add(fit, str, Ended(None, used(), key=f"{name}-{n}"))

    threads = [threading.Thread(target=add, args=(f"t{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = recorder.report()
    keys = [row.key for row in report]
    assert len(keys) + report.n_older == 5 * 8000
    assert len(set(keys)) == len(keys)


def test_a_signals_handler_can_record_what_it_interrupts_the_recording_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may end a call while another one is being recorded, and rows are being put away."""
    monkeypatch.setattr("dask_limits.report.recorder._CHUNK", 3)
    for n in itertools.count(1):
        recorder = Recorder(most_rows=6)

        def add(recorder: Recorder = recorder) -> None:
            recorder.add(fit, str, Ended(ValueError("no"), used(), key="a-1"))

        for _ in range(8):
            add()
        reached = at_line(n, add, add, "report")
        report = recorder.report()
        assert len(report) + report.n_older == 9 + reached
        if not reached:
            break
    assert n > 20


def test_a_million_calls_take_less_than_200_mib() -> None:
    """What is kept of a call takes some hundred bytes."""
    program = """
import resource, time
from dask_limits import Limits, Usage
from dask_limits.report import Recorder
from dask_limits.report.endings import RETURNED
recorder, limits = Recorder(), Limits(memory="1 GiB")
usage = Usage(1.0, 1.0, 2**20, started=time.time())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in range(1_100_000):
    recorder.add_row("fit", f"fit-0f3c-{n}", RETURNED, usage, limits, "w1", "", 1.0, 2.0, 1)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = recorder.report()
print(len(report), len(report) + report.n_older, (after - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    n_rows, n_calls, mib = map(int, done.stdout.split())
    assert (n_rows, n_calls) == (1_000_000, 1_100_000)
    assert mib < 200
