"""What a task process answers for a call, where the guardian has not looked."""

from __future__ import annotations

import time

import pytest

from dask_limits import Limits, exceptions
from dask_limits.limits.owner import connection
from dask_limits.limits.owner.guardian import Guardian

BLIND = (
    "; from dask_limits.limits.guardian import monitor;"
    " monitor.Watch.look = lambda self, now: setattr(self, 'next_look', now + 1) or ''; main("
)


@pytest.fixture
def blind(monkeypatch):
    """A guardian that has a task process ready, and looks at nothing."""
    program = connection._PROGRAM.replace("; main(", BLIND)
    assert BLIND in program
    monkeypatch.setattr(connection, "_PROGRAM", program)
    with Guardian() as guardian:
        guardian.run(abs, (-1,), {}, Limits(wall_time=60))
        yield guardian


def burn(seconds):
    while time.process_time() < seconds:
        pass


def fill(size):
    return len(b"x" * size)


OVER = [
    (time.sleep, 0.4, {"wall_time": 0.1}, exceptions.WallTimeBreach),
    (burn, 0.8, {"cpu_time": 0.1}, exceptions.CpuTimeBreach),
    (fill, 300_000_000, {"memory": "200 MB"}, exceptions.MemoryBreach),
]


@pytest.mark.parametrize(
    ("function", "argument", "limits", "breach"), OVER, ids=["wall_time", "cpu_time", "memory"]
)
def test_a_call_that_was_over_its_limit_at_its_end_is_a_breach(
    blind, function, argument, limits, breach
):
    outcome = blind.run(function, (argument,), {}, Limits(**limits))
    assert type(outcome.exception) is breach
    assert outcome.exception.usage == outcome.usage


def late_failure():
    time.sleep(0.4)
    raise LookupError("late")


def test_what_a_call_raised_after_its_time_is_the_cause_of_the_breach(blind):
    error = blind.run(late_failure, (), {}, Limits(wall_time=0.1)).exception
    assert type(error) is exceptions.WallTimeBreach
    assert isinstance(error.__cause__, LookupError)


def test_a_call_within_its_limits_needs_no_look_of_the_guardian(blind):
    assert blind.run(abs, (-3,), {}, Limits(wall_time=60, memory="10 GiB")).value == 3
