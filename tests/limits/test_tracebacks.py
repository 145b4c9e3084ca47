"""Tracebacks and stacks begin with the user's own function."""

from __future__ import annotations

import importlib
import re
import traceback

import pytest
from isolations import FORKSERVER, FRESH, SPAWN, THREAD, WARM
from overdoing import wait_on
from processes import until

from dask_limits import limit

on_all = pytest.mark.parametrize("isolated", [WARM, FRESH, SPAWN, FORKSERVER, THREAD], ids=str)


def text_of(error: BaseException) -> str:
    """Its traceback, wherever it was raised."""
    if error.__cause__ is None:
        return "".join(traceback.format_tb(error.__traceback__))
    return error.__cause__.text.removeprefix("Traceback (most recent call last):\n")


def fail():
    raise LookupError


@on_all
def test_a_traceback_begins_with_the_function(isolated):
    text = text_of(isolated(fail, wall_time=30).run().exception)
    assert re.match(r'  File ".*test_tracebacks.py", line \d+, in fail\n', text), text


@on_all
def test_the_stacks_of_a_breach_begin_with_the_function(isolated):
    error = isolated(wait_on, wall_time=1.5).run().exception
    frames = re.findall(r'  File "([^"]*)"', error.stacks)
    assert frames, repr(error.stacks)
    assert all(name.endswith("overdoing.py") for name in frames), error.stacks


def waits_for_a_limited_call():
    limit(wait_on, wall_time=60)()


def test_stacks_show_the_function_that_waits_for_a_limited_call_of_its_own():
    def stacks():  # on a busy machine, of its imports the first time
        return limit(waits_for_a_limited_call, wall_time=1.5).run().exception.stacks

    until(lambda: re.search(r"in waits_for_a_limited_call$", stacks()))


@pytest.mark.parametrize("isolated", [WARM, THREAD], ids=str)
def test_code_of_users_in_a_folder_of_our_name_is_theirs(isolated, tmp_path, monkeypatch):
    folder = tmp_path / "dask_limits" / "limits"
    folder.mkdir(parents=True)
    (folder / "in_place_of_theirs.py").write_text("def fail():\n    raise LookupError\n")
    monkeypatch.syspath_prepend(folder)
    fail = importlib.import_module("in_place_of_theirs").fail
    text = text_of(isolated(fail, wall_time=30).run().exception)
    assert re.match(r'  File ".*in_place_of_theirs.py", line 2, in fail\n', text), text
