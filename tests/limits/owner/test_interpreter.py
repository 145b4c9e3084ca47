"""Calls run in the interpreter of their owner, with the options that it was started with."""

import subprocess
import sys
import textwrap

import pytest
from isolations import FORKSERVER, PROCESSES, SPAWN, on_processes

OPTIONS = {
    "": [],
    "-O": ["-O"],
    "-OO": ["-OO"],
    "-I": ["-I"],
    "-S": ["-S"],
    "-E": ["-E"],
    "-s": ["-s"],
    "-P": ["-P"],
    "-B": ["-B"],
    "-b": ["-b"],
    "-bb": ["-bb"],
    "-u": ["-u"],
    "-d": ["-d"],
    "-W error": ["-W", "error", "-W", "ignore::UserWarning"],
    "-X dev": ["-X", "dev"],
    "-X faulthandler": ["-X", "faulthandler"],
    "-X utf8": ["-X", "utf8"],
    "-X utf8=0": ["-X", "utf8=0"],
    "-X tracemalloc": ["-X", "tracemalloc=5"],
    "-X int_max_str_digits": ["-X", "int_max_str_digits=1000"],
    "-X pycache_prefix": ["-X", "pycache_prefix=/nowhere/at/all"],
    "-X no_debug_ranges": ["-X", "no_debug_ranges"],
    "-X warn_default_encoding": ["-X", "warn_default_encoding"],
    "-X mine": ["-X", "mine=1", "-X", "alone"],
}


def look():
    """What the options of an interpreter change in it."""
    import tracemalloc
    import warnings

    return {
        "flags": str(sys.flags),
        "options": dict(sys._xoptions),
        "warnings": [f for f in map(str, warnings.filters) if "resource_tracker" not in f],
        "pycache": sys.pycache_prefix,
        "tracemalloc": tracemalloc.get_traceback_limit() if tracemalloc.is_tracing() else 0,
        "digits": sys.get_int_max_str_digits(),
        "site": "site" in sys.modules,
        "customized": "sitecustomize" in sys.modules and sys.modules["sitecustomize"].__file__,
        "asserts": __import__("with_asserts").CHECKS,
    }


def in_owner_and_call(options, isolated, tmp_path, monkeypatch):
    """What an owner with these options shows, and a call of its."""
    (tmp_path / "with_asserts.py").write_text(
        "CHECKS = False\ntry:\n    assert 0\nexcept AssertionError:\n    CHECKS = True\n"
    )
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['CUSTOMIZED'] = '1'\n")
    program = f"""
        import sys
        sys.path[:] = {[str(tmp_path), *sys.path]!r}
        from test_interpreter import look
        here = look()
        from dask_limits.limits import limit
        there = limit(look, wall_time=60, **{isolated.options})()
        for name in here:
            if here[name] != there[name]:
                print(name, here[name], there[name], sep="\\n    ")
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, *options, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_call_has_the_options_of_its_owner(name, tmp_path, monkeypatch):
    ended = in_owner_and_call(OPTIONS[name], PROCESSES[0], tmp_path, monkeypatch)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("isolated", [*PROCESSES, SPAWN, FORKSERVER], ids=str)
@pytest.mark.parametrize("name", ["-O", "-I", "-W error", "-X dev"])
def test_so_has_a_call_at_each_isolation(name, isolated, tmp_path, monkeypatch):
    ended = in_owner_and_call(OPTIONS[name], isolated, tmp_path, monkeypatch)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@on_processes
@pytest.mark.parametrize("executable", ["None", "''", "'/nowhere/python'"])
def test_an_owner_that_does_not_know_its_interpreter_is_told_so(executable, isolated):
    program = f"""
        import sys
        from dask_limits.limits import limit
        sys.executable = {executable}
        print(limit(abs, wall_time=60, **{isolated.options}).run(-1).exception)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    told = subprocess.check_output(command, text=True, timeout=100)
    assert "abs() could not be started" in told
    assert ("sys.executable" if "nowhere" not in executable else "/nowhere/python") in told
