"""Where a call was: a line of its user's own code, where there is one."""

from __future__ import annotations

import json
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from kinds import REACHED_S

import dask_limits
from dask_limits.exceptions import RemoteTraceback
from dask_limits.limits.where import where_ended, where_raised, with_cell

STANDARD = sysconfig.get_path("stdlib")
LIBRARIES = [
    "/opt/conda/lib/python3.12/site-packages/sklearn/tree.py",
    "/usr/lib/python3/dist-packages/numpy/core.py",
    "/home/ada/.pyenv/versions/3.13.1/lib/python3.13/json/decoder.py",
    "/usr/lib/python313.zip/json/decoder.py",
    "<frozen importlib._bootstrap>",
    f"{STANDARD}/threading.py",
    str(Path(dask_limits.__file__).parent / "limits" / "in_place.py"),
]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_line_of_a_library_is_not_where_a_call_was(library: str) -> None:
    """It is the innermost line of the user's own, in stacks and in tracebacks."""
    stacks = "Thread 0x2 (most recent call first):\n"
    stacks += '  File "other.py", line 1 in watch\n\n'
    stacks += "Current thread 0x1 (most recent call first):\n"
    stacks += f'  File "{library}", line 3 in wait\n  File "fit.py", line 9 in fit\n'
    stacks += '  File "main.py", line 1 in <module>'
    assert where_ended(stacks) == "fit.py:9 in fit"
    error = ValueError("no")
    error.__cause__ = RemoteTraceback(
        'Traceback (most recent call last):\n  File "first.py", line 1, in first\nKeyError\n\n'
        "During handling of the above exception, another exception occurred:\n\n"
        'Traceback (most recent call last):\n  File "fit.py", line 9, in fit\n    wait()\n'
        f'  File "{library}", line 3, in wait\n    raise ValueError("no")\nValueError: no\n'
    )
    assert where_raised(error) == "fit.py:9 in fit"


def test_where_no_line_is_the_users_it_is_the_innermost_one() -> None:
    """A function of a library may be submitted itself. Other threads do not count."""
    stacks = "Current thread 0x1 (most recent call first):\n"
    stacks += '  File "/a/site-packages/b.py", line 3 in wait\n'
    stacks += '  File "/a/site-packages/b.py", line 9 in fit\n\n'
    stacks += 'Thread 0x2 (most recent call first):\n  File "other.py", line 1 in watch'
    assert where_ended(stacks) == "/a/site-packages/b.py:3 in wait"
    assert where_ended("") == where_raised(ValueError("never raised")) == ""


def _loads() -> None:
    json.loads("{")


def test_an_exception_that_a_library_raised_was_raised_where_the_user_called_it() -> None:
    """So it is with a traceback of this process too."""
    with pytest.raises(ValueError) as raised:
        _loads()
    assert where_raised(raised.value).endswith("in _loads")


def test_a_breach_in_a_library_is_where_the_user_called_it() -> None:
    """Its stacks begin in the library."""

    def wait() -> None:
        threading.Event().wait()

    call = dask_limits.limit(wait, wall_time=REACHED_S)
    with pytest.raises(dask_limits.exceptions.WallTimeBreach) as raised:
        call()
    assert "threading.py" in raised.value.stacks
    assert where_ended(raised.value.stacks).endswith("in wait")
    assert "test_where.py" in where_ended(raised.value.stacks)


def _shell(label: Callable[[str], object]) -> SimpleNamespace:
    shell = SimpleNamespace(compile=SimpleNamespace(format_code_name=label))
    return SimpleNamespace(get_ipython=lambda: shell)


def test_without_a_notebook_a_place_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a module called IPython is another one, or its shell has no such compiler."""
    place = "/tmp/ipykernel_1/2.py:3 in fit"
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    assert with_cell(place) == place
    monkeypatch.setitem(sys.modules, "IPython", _shell(lambda name: 1 / 0))
    assert with_cell(place) == place
    monkeypatch.setitem(sys.modules, "IPython", _shell(lambda name: None))
    assert with_cell(place) == place
    assert with_cell("") == ""
