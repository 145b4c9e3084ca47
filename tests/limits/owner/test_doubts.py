"""Calls that are ended while they import: the next ones have what these had begun to import."""

import importlib.util
import os
import signal
import sys
import threading
import time
from importlib import import_module

import cloudpickle
import pytest
from on_guardian import LONG_S, call
from processes import until

from dask_limits import exceptions
from dask_limits.limits import Limits
from dask_limits.limits.ipc import owner_cells
from dask_limits.limits.owner.doubts import Doubt
from dask_limits.limits.owner.preload import Preload
from dask_limits.limits.owner.templates import Templates
from dask_limits.limits.owner.use import Use

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

COSTLY = {
    "wall_time": (exceptions.WallTimeBreach, 1.0, "import time; time.sleep(2)"),
    "cpu_time": (
        exceptions.CpuTimeBreach,
        0.5,
        "import time\nwhile time.process_time() < 1.5: pass",
    ),
    "memory": (exceptions.MemoryBreach, 100 * 2**20, "taken = b'x' * (200 * 2**20)"),
}
"""A limit, how a call goes over it, and a module whose import does."""
HERE = [*sys.path], ""
USE = Use("a function", is_kept=False)


def import_it(name):
    import_module(name)
    return "done"


def is_imported(name):
    time.sleep(LONG_S)  # so that each has a process of its own
    return name in sys.modules


def run(guardian, fn, *args, **limits):
    return guardian.run(fn, args, {}, Limits(**limits))


@pytest.mark.parametrize("limit", COSTLY)
def test_calls_get_done_whose_imports_alone_go_over_their_limit(guardian, module, limit):
    breach, value, text = COSTLY[limit]
    name = module("costly", text, installed=True)
    first = run(guardian, import_it, name, **{limit: value}).exception
    assert isinstance(first, breach)
    assert "in its imports (1 module until then" in str(first)
    assert f"preload=['{name}']" in str(first)
    later = [run(guardian, import_it, name, **{limit: value}) for _ in range(2)]
    assert "done" in {end.value for end in later if end.ok}


def test_imports_of_a_call_that_has_ended_its_process_are_learned(guardian, module):
    name = module("imported", "", installed=True)

    def end():
        import_module(name)
        os._exit(3)

    assert isinstance(run(guardian, end).exception, exceptions.ExitError)
    until(lambda: call(guardian, is_imported, name))


def test_imports_of_a_call_are_there_for_the_next_one_without_another_in_between(guardian, module):
    name = module("imported", "", installed=True)
    assert call(guardian, import_it, name) == "done"
    until(lambda: owner_cells.last_template(guardian._connection._owner_cells))
    assert call(guardian, is_imported, name)


ENDING = {
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "exits": "import os; os._exit(3)",
}


@pytest.mark.parametrize("how", ENDING)
@pytest.mark.usefixtures("no_rest")
def test_a_module_that_ends_its_process_does_so_for_each_call_and_harms_no_other(
    guardian, module, how
):
    bad = module("bad", "import good\n" + ENDING[how], installed=True)
    good = module("good", "", installed=True)
    ends = [run(guardian, import_it, bad).exception for _ in range(5)]
    assert len({(type(end), str(end)) for end in ends}) == 1
    assert isinstance(ends[0], exceptions.CrashError | exceptions.ExitError)

    def use():
        import_module(good)
        time.sleep(LONG_S)

    call(guardian, use)
    until(lambda: call(guardian, is_imported, good))
    assert not call(guardian, is_imported, bad)


def test_a_module_whose_import_never_ends_delays_no_other_function(guardian, module):
    name = module("endless", "import time; time.sleep(3600)", installed=True)
    end = run(guardian, import_it, name, wall_time=0.5)
    assert isinstance(end.exception, exceptions.WallTimeoutException)
    ended = []
    thread = threading.Thread(
        target=lambda: ended.append(run(guardian, import_it, name, wall_time=0.5))
    )
    thread.start()  # this one has a template tried
    while thread.is_alive():
        start = time.monotonic()
        call(guardian, abs, -1)
        assert time.monotonic() - start < 8  # 10 s are what is waited for the template
    thread.join()
    assert isinstance(ended[0].exception, exceptions.WallTimeoutException)
    start = time.monotonic()
    end = run(guardian, import_it, name, wall_time=0.5)
    assert isinstance(end.exception, exceptions.WallTimeoutException)
    assert time.monotonic() - start < 8  # and not again


def test_a_template_takes_no_more_than_some_times_the_memory_of_the_call_that_was_ended(
    guardian, module, tmp_path
):
    imported = tmp_path / "imported"
    text = f"""
        import pathlib, time
        taken = []
        for _ in range(800):
            taken.append(b"x" * 2**20)
            time.sleep(0.001)
        pathlib.Path({str(imported)!r}).touch()
    """
    name = module("large", text, installed=True)
    for _ in range(3):
        end = run(guardian, import_it, name, memory="100 MiB")
        assert isinstance(end.exception, exceptions.MemoryLimitException)
    assert not imported.exists()


def test_a_module_that_starts_processes_without_end_is_not_tried_in_a_template(
    guardian, module, tmp_path
):
    tries = tmp_path / "tries"
    text = f"""
        import os, time
        with open({str(tries)!r}, "a") as file:
            file.write("x")
        for _ in range(9):
            if os.fork() == 0:
                break
        time.sleep(60)
    """
    name = module("forking", text, installed=True)
    for _ in range(3):
        end = run(guardian, import_it, name, num_processes=5)
        assert isinstance(end.exception, exceptions.ProcessBreach)
    assert tries.read_text() == "xxx"


def test_a_module_that_a_call_has_only_asked_for_is_not_imported_ahead(guardian, module):
    asked, imported = (module(name, "", installed=True) for name in ("asked", "imported"))

    def end():
        assert importlib.util.find_spec(asked)
        import_module(imported)
        assert importlib.util.find_spec(asked)
        os.kill(os.getpid(), signal.SIGKILL)

    assert isinstance(run(guardian, end).exception, exceptions.CrashError)
    until(lambda: call(guardian, is_imported, imported))
    assert not call(guardian, is_imported, asked)


def test_a_module_that_a_call_imports_after_a_change_of_its_own_is_not_imported_ahead(
    guardian, module
):
    names = [module(name, "", installed=True) for name in ("before", "after")]

    def end():
        import_module(names[0])
        os.environ["CHANGED"] = "1"
        import_module(names[1])
        os.kill(os.getpid(), signal.SIGKILL)

    assert isinstance(run(guardian, end).exception, exceptions.CrashError)
    until(lambda: call(guardian, is_imported, names[0]))
    assert not call(guardian, is_imported, names[1])


def test_a_module_of_the_users_is_not_imported_ahead(guardian, module):
    mine, installed = module("mine", "import theirs"), module("theirs", "", installed=True)

    def end():
        import_module(mine)
        os.kill(os.getpid(), signal.SIGKILL)

    assert isinstance(run(guardian, end).exception, exceptions.CrashError)
    until(lambda: call(guardian, is_imported, installed))
    assert not call(guardian, is_imported, mine)


def learned_by(templates):
    wanted = templates.to_prepare()
    assert wanted is not None
    templates.asked(wanted)
    return wanted


def test_what_is_in_doubt_is_tried_alone_and_once():
    made = Templates()
    made.learn({"wave": None}, 0, HERE)
    made.learn_from_ended(["colorsys"], 0, HERE, USE, Doubt(30, 10**9))
    wanted = learned_by(made)
    assert wanted.preparation.learned == ("colorsys",)
    assert wanted.preparation.most_memory == 2 * 10**9
    assert made.awaited_by(USE) == wanted.number
    assert made.awaited_by(Use("another function", is_kept=False)) == 0
    made.failed(wanted.number, "it crashed")
    assert made.awaited_by(USE) == 0
    made.learn_from_ended(["colorsys"], 0, HERE, USE, Doubt(30, 0))
    wanted = learned_by(made)
    assert wanted.preparation.learned == ("wave",)
    assert wanted.preparation.most_memory == 0
    made.prepared(wanted.number, 0)
    assert made.to_prepare() is None


def test_what_was_given_up_is_learned_when_a_call_that_has_imported_it_is_answered():
    made = Templates()
    made.learn_from_ended(["colorsys"], 0, HERE, USE, Doubt(1, 0))
    made.failed(learned_by(made).number, "it crashed")
    made.learn({"colorsys": None}, 0, HERE)
    assert learned_by(made).preparation.learned == ("colorsys",)


def test_no_call_waits_for_what_is_in_doubt_but_for_what_the_user_has_asked_for():
    made = Templates()
    made.want(Preload.of(["wave"]))
    made.learn_from_ended(["colorsys"], 0, HERE, USE, Doubt(1, 0))
    first = learned_by(made)
    assert first.preparation.learned == ()
    made.prepared(first.number, 0)
    assert learned_by(made).preparation.learned == ("colorsys",)
