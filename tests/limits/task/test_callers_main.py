"""A call can use pickle and multiprocessing with what its caller's script defines."""

from __future__ import annotations

import subprocess
import sys

import pytest
from isolations import PROCESSES

SCRIPT = """
import functools, multiprocessing, os, pickle, sys
from concurrent.futures import ProcessPoolExecutor
from dask_limits import limit

print("run once")  # and not again in the processes that a call spawns: there is no guard below
FACTOR = 3

class Number:
    def __init__(self, x): self.x = x
    def times(self): return self.x * FACTOR

class NumberError(Exception): pass

def following(number): return Number(number.x + 1)

def failing(number): raise NumberError(number)

@functools.cache
def cached(x): return x

def pickled(*things):
    import __main__
    again = pickle.loads(pickle.dumps([*things, cached]))
    return again, type(again[0]) is Number, sorted(n for n in vars(__main__) if n[0] != "_")

def in_pool(method, *numbers):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(following, numbers)

def in_executor(method, fn, *numbers):
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
        return list(executor.map(fn, numbers))

def in_a_childs_child(method):
    return in_executor(method, following, Number(1))[0].x

def apply(fn, *args): return fn(*args)

def names_of_main():
    return sorted(name for name in vars(sys.modules["__main__"]) if name[0] != "_")

def through_all(**limits):
    run = functools.partial(limit, **limits)
    again, is_own, names = run(pickled)(Number(1), following)
    assert (again[1], again[2], type(again[0]), is_own) == (following, cached, Number, True)
    assert names == ["Number", "cached", "following", "pickled"], names
    for method in ("fork", "spawn", "forkserver"):
        made = run(in_pool)(method, Number(1), Number(2))
        assert [type(number) for number in made] == [Number, Number]
        assert [number.times() for number in made] == [6, 9]
        # what is only an argument can be found by its name, too
        made = run(apply)(in_executor, method, following, Number(1))
        assert [number.times() for number in made] == [6]
    try:
        run(in_executor)("spawn", failing, Number(1))
    except NumberError as error:
        assert type(error.args[0]) is Number
    assert run(in_executor)("spawn", following, Number(4))[0].x == 5
    assert run(names_of_main)() == ["names_of_main"]  # nothing of another call
    print("all passed")

isolation, context = (os.environ["LEVEL"].split() + [None])[:2]
through_all(wall_time=60, isolation=isolation, context=context)
"""


def printed(*command, level="warm", stdin=None, directory=None):
    done = subprocess.run(
        [sys.executable, *command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=directory,
        env={"LEVEL": level, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    return done.stdout.split("\n")[:-1], done.stderr


LEVELS = [str(level) for level in PROCESSES] + ["fresh spawn"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_call_finds_what_its_script_defines_and_the_script_is_not_run_again(tmp_path, level):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    assert printed(str(path), level=level) == (["run once", "all passed"], "")


def test_a_call_finds_what_a_module_that_is_run_defines(tmp_path):
    (tmp_path / "runnable.py").write_text(SCRIPT)
    output = printed("-m", "runnable", directory=tmp_path)
    assert output == (["run once", "all passed"], "")


def test_a_call_finds_what_a_command_defines():
    assert printed("-c", SCRIPT) == (["run once", "all passed"], "")


def test_a_call_finds_what_was_typed_in():
    """As in a notebook: no file has the code."""
    output, _ = printed("-i", "-q", stdin=f"exec({SCRIPT!r})\n")
    assert output == ["run once", "all passed"]
