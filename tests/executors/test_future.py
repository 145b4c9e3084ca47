"""The futures of executors."""

from __future__ import annotations

import itertools

import pytest
from lines import at_line

from dask_limits.executors.future import Future


def test_a_signals_handler_can_cancel_what_it_interrupts_the_cancelling_of():
    for n in itertools.count(1):
        ended, told = [], []
        future = Future(on_cancel=lambda ended=ended: ended.append(1))
        future.when_settled(told.append)
        reached = at_line(n, future.cancel, future.cancel, "executors")
        assert future.cancelled()
        assert (ended, told) == ([1], [future])
        if not reached:
            break
    assert n > 5


def test_a_call_is_ended_whatever_a_done_callback_raises_when_it_is_cancelled():
    ended, told = [], []
    future = Future(on_cancel=lambda: ended.append(1))
    future.when_settled(told.append)
    future.add_done_callback(lambda _: exit())
    with pytest.raises(SystemExit):
        future.cancel()
    assert future.cancelled()
    assert (ended, told) == ([1], [future])
