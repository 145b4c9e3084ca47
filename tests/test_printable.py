"""The names of functions are shown escaped, wherever they are shown."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest

from dask_limits import Scheduler, limit
from dask_limits.guards import time_guard
from dask_limits.limits import name_of
from dask_limits.plugins import Limiter, PynisherPlugin, Retry
from dask_limits.printable import printable

NAME = "red\x1b[2J\x9b31m\r\n\u202e[/red]"
SHOWN = r"red\x1b[2J\x9b31m\r\n\u202e[/red]"


def named(function):
    def odd(*args):
        return function(*args)

    odd.__name__ = odd.__qualname__ = NAME
    return odd


def assert_shown(text):
    assert SHOWN in text
    assert text.replace("\n", "").isprintable()


def test_text_that_can_be_printed_stays_as_it_is():
    for text in ("fit", "Änderung of the 人", r"C:\x1b", ""):
        assert printable(text) == text
    assert printable(printable(NAME)) == SHOWN


@pytest.mark.parametrize(
    "call",
    [
        limit(named(time.sleep), wall_time=0.1),
        limit(named(os._exit), wall_time=30),
        limit(named(lambda _: threading.Lock()), wall_time=30),
        limit(named(time.sleep), wall_time=0.1, isolation="thread"),
    ],
    ids=["breach", "crash", "pickling", "thread"],
)
def test_in_errors(call):
    error = call.run(3).exception
    assert_shown(str(error))
    assert error.call == name_of(call) == SHOWN
    assert_shown(repr(call))


def test_in_what_a_scheduler_shows_and_logs(capsys, caplog):
    caplog.set_level(logging.DEBUG)
    scheduler = Scheduler.with_sequential()
    plugins = [PynisherPlugin(walltime_limit=30), Limiter(max_calls=1), Retry(max_retries=1)]
    task = scheduler.task(named(abs), plugins=plugins)
    task.on_result(named(print))
    scheduler.on_start(lambda: task.submit(-1))
    assert task.name == SHOWN
    assert_shown(repr(task))
    assert_shown(task._repr_html_())
    scheduler.run(display=True)
    shown = capsys.readouterr().out
    assert_shown(shown)
    assert "\x1b" not in caplog.text


def test_in_a_guard():
    async def wait(): ...

    wait.__qualname__ = NAME
    with pytest.raises(TypeError) as caught:
        time_guard(1)(wait)
    assert_shown(str(caught.value))
