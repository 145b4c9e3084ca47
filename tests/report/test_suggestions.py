"""Limits that are suggested by what calls have used."""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits import Limits, Usage
from dask_limits.limits.endings import Ending
from dask_limits.report import Recorder
from dask_limits.report.amounts import bytes_rounded_up, seconds_rounded_up
from dask_limits.report.endings import RETURNED, End
from dask_limits.report.suggestions import Suggestion
from dask_limits.units import parse_bytes, parse_seconds

MIB = 2**20
HAD = Limits(memory="4 GiB", wall_time=600)


def recorded(
    calls: Iterable[tuple[float, float]], limits: Limits = HAD, over: str = "", n_over: int = 0
) -> Recorder:
    """Calls that took so many seconds and bytes, and more that went over a limit."""
    recorder = Recorder()
    for seconds, memory in calls:
        usage = Usage(seconds, seconds / 2, int(memory), started=time.time())
        recorder.add_row("fit", "1", RETURNED, usage, limits, "", "", nan, time.time(), 1)
    for _ in range(n_over):
        usage, end = Usage(0.1, 0.1, MIB, started=time.time()), End(Ending.BREACH, over)
        recorder.add_row("fit", "1", end, usage, limits, "", "", nan, time.time(), 1)
    return recorder


def suggested(recorder: Recorder, **options: float) -> Suggestion:
    (one,) = recorder.report().suggest_limits(**options)
    return one


def test_limits_are_what_calls_used_with_headroom_rounded_up() -> None:
    """The line to paste has them."""
    one = suggested(recorded([(10, 100 * MIB)] * 5))
    assert one.limits == {"memory": "120 MiB", "wall_time": "12 s"}
    assert one.line == 'limit(fit, memory="120 MiB", wall_time="12 s")'
    assert (one.n_calls, one.passed, one.notes) == (5, 1.0, ())
    assert Limits(**one.limits) == Limits(memory=120 * MIB, wall_time=12)  # type: ignore[arg-type]


def test_the_share_that_may_go_over_is_left_out() -> None:
    """One odd call among many does not set the limits."""
    calls = [(10, 100 * MIB)] * 1000 + [(500, 4000 * MIB)]
    assert suggested(recorded(calls), quantile=0.99).limits["wall_time"] == "12 s"
    assert suggested(recorded(calls), quantile=1).limits["wall_time"] == "10 m"


@given(
    calls=st.lists(
        st.tuples(st.floats(0.001, 1e5), st.integers(1, 2**40)), min_size=1, max_size=60
    ),
    quantile=st.floats(0.01, 1),
)
def test_the_share_that_is_asked_for_keeps_all_limits_together(
    calls: list[tuple[float, float]], quantile: float
) -> None:
    """Also if other calls are the longest than have the most memory."""
    one = suggested(recorded(calls), quantile=quantile, headroom=1)
    memory, seconds = parse_bytes(one.limits["memory"]), parse_seconds(one.limits["wall_time"])
    keep = sum(m <= memory and s <= seconds for s, m in calls) / len(calls)
    assert keep == one.passed >= quantile - 1e-9


def test_calls_that_went_over_a_limit_need_more_than_any_other() -> None:
    """What they need is not known, so twice the limit is the next to try."""
    calls = [(10.0, 100.0 * MIB)] * 50
    one = suggested(recorded(calls, over="memory", n_over=10))
    assert one.limits == {"memory": "8 GiB", "wall_time": "12 s"}
    assert "10 of 60 calls went over their memory limit" in one.notes[0]
    assert one.passed == pytest.approx(50 / 60)
    assert suggested(recorded(calls, over="memory", n_over=10), quantile=0.6).notes == ()


def test_calls_that_raised_crashed_or_were_cancelled_say_nothing() -> None:
    """They may have ended early."""
    recorder = recorded([(10, 100 * MIB)] * 3)
    for ending in (Ending.RAISED, Ending.CRASHED, Ending.CANCELLED, Ending.LOST):
        usage = Usage(1000.0, 0.1, 2**40, started=time.time())
        recorder.add_row("fit", "1", End(ending), usage, HAD, "", "", nan, time.time(), 1)
        recorder.add_row("other", "1", End(ending), usage, HAD, "", "", nan, time.time(), 1)
    assert suggested(recorder).limits == {"memory": "120 MiB", "wall_time": "12 s"}


def test_a_busy_machine_and_a_first_import_have_room() -> None:
    """Limits below what such a thing takes would end calls for nothing."""
    limits = suggested(recorded([(0.001, 1000)])).limits
    assert limits == {"memory": "16 MiB", "wall_time": "1 s"}


def test_memory_that_was_not_measured_gets_no_limit() -> None:
    """So it is for calls without limits, in their caller's own process."""
    one = suggested(recorded([(10, 0)], Limits()))
    assert one.limits == {"wall_time": "12 s"}
    assert "no memory was measured" in one.notes[0]
    some = suggested(recorded([(10, 0), (10, 100 * MIB)], Limits()))
    assert some.limits["memory"] == "120 MiB"


def test_other_limits_are_suggested_if_calls_had_them() -> None:
    """So are the cores that they reserved."""
    limits = Limits(memory="1 GiB", cpu_time=60, num_processes=8, cores=2)
    one = suggested(recorded([(10, 100 * MIB)], limits))
    expected: dict[str, Any] = {"memory": "120 MiB", "wall_time": "12 s", "cpu_time": "6 s"}
    assert one.limits == expected | {"num_processes": 2, "cores": 2}


def test_it_says_how_many_more_calls_fit_beside_each_other() -> None:
    """By the memory and the cores of the workers when there were the most."""
    recorder = recorded([(10, 800 * MIB)] * 5)
    for n in range(3):
        recorder.worker_added(f"tcp://{n}", 10, 8 * 2**30)
    recorder.worker_removed("tcp://1")
    one = suggested(recorder)
    assert one.limits["memory"] == "960 MiB"
    assert (one.beside_before, one.beside) == (3 * 2, 3 * 8)
    assert "24, 18 more" in repr(recorder.report().suggest_limits())
    assert suggested(recorded([(10, 800 * MIB)])).beside is None


def test_on_this_machine_as_many_fit_as_there_are_processes() -> None:
    """Unless its memory is less."""
    recorder = recorded([(10, MIB)] * 5)
    recorder.slots = 3
    assert suggested(recorder).beside == 3
    assert suggested(recorded([], HAD, "memory", 1)).beside is None


def test_a_function_without_a_name_to_paste_is_fn() -> None:
    """A lambda is one."""
    assert Suggestion("<lambda>", {"wall_time": "1 s"}, 1, 1.0).line == 'limit(fn, wall_time="1 s")'


def test_there_is_a_suggestion_for_each_task_with_calls_that_returned() -> None:
    """The tasks with the most calls come first."""
    recorder = recorded([(10, 100 * MIB)] * 3)
    usage = Usage(1.0, 0.1, MIB, started=time.time())
    recorder.add_row("load", "1", RETURNED, usage, HAD, "", "", nan, time.time(), 1)
    assert [one.task for one in recorder.report().suggest_limits()] == ["fit", "load"]
    assert repr(Recorder().report().suggest_limits()).startswith("No limits to suggest")


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"quantile": 0}, ValueError, "more than 0, at most 1"),
        ({"quantile": 99}, ValueError, "quantile=99 must be"),
        ({"headroom": 0.9}, ValueError, "headroom=0.9 must be 1 or more"),
        ({"headroom": float("inf")}, ValueError, "headroom=inf"),
        ({"quantile": "0.9"}, TypeError, "quantile='0.9' is of type str"),
    ],
)
def test_what_is_no_share_or_no_factor_is_refused(
    options: dict[str, Any], error: type[Exception], what: str
) -> None:
    """The error has the range."""
    with pytest.raises(error, match=what):
        Recorder().report().suggest_limits(**options)


@given(st.floats(1024, 1e12))
def test_rounding_goes_up_and_not_by_more_than_a_tenth(amount: float) -> None:
    """What is rounded can be parsed."""
    for form, parse in ((bytes_rounded_up, parse_bytes), (seconds_rounded_up, parse_seconds)):
        rounded = parse(form(amount))
        assert amount * (1 - 1e-6) - 1 <= rounded <= amount * 1.1001


def test_what_calls_had_used_that_went_over_another_limit_is_not_too_much() -> None:
    recorder = recorded([(1, 10 * MIB)] * 8)
    usage = Usage(600.0, 1.0, 300 * MIB, started=time.time())
    end = End(Ending.BREACH, "wall_time")
    for _ in range(2):
        recorder.add_row("fit", "1", end, usage, HAD, "", "", nan, time.time(), 1)
    limits = suggested(recorder).limits
    assert parse_bytes(limits["memory"]) >= 300 * MIB
    assert parse_seconds(limits["wall_time"]) == 1200
