"""What is done before calls come, over each executor that can be told to do it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from fake_batch_systems import BatchSystem
from processes import until

import dask_limits
from dask_limits import PynisherPlugin, Scheduler, exceptions, limit
from dask_limits.executors import factories
from dask_limits.limits.owner.preload import Preload

# Importing this module takes time, in each of many task processes.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

model = None
seen: list[str] = []


class Settings:
    name = ""


def load(text):
    global model
    model = text
    seen.append(text)
    Settings.name = text
    os.environ["FROM_INITIALIZER"] = text
    sys.path.append(f"/nowhere/{text}")


def look():
    return {
        "imported": "wave" in sys.modules,
        "global": model,
        "in a global": seen,
        "in a class": Settings.name,
        "environment": os.environ.get("FROM_INITIALIZER"),
        "path": "/nowhere/" + str(model) in sys.path,
    }


def found(text):
    return {
        "imported": True,
        "global": text,
        "in a global": [text],
        "in a class": text,
        "environment": text,
        "path": True,
    }


@pytest.fixture
def jobs(tmp_path):
    """The options of a batch system that runs its jobs at once, on this machine."""
    path = shlex.quote(os.pathsep.join(sys.path))
    with tempfile.TemporaryDirectory(prefix="dask-limits-") as folder:
        yield {
            "cores": 1,
            "memory": "2 GiB",
            "interface": "lo",
            "job_script_prologue": [f"export PYTHONPATH={path}"],
            "shared_temp_directory": f"{folder}/shared",
            **BatchSystem("pbs", Path(folder)).commands,
        }


@pytest.fixture(
    params=[
        "processes",
        "threads",
        pytest.param("dask", marks=pytest.mark.dask),
        pytest.param("jobs", marks=pytest.mark.dask),
    ]
)
def make(request):
    """Makes a scheduler for one call at a time."""

    def make(**done_before):
        if request.param == "processes":
            return Scheduler.with_processes(1, **done_before)
        if request.param == "dask":
            return Scheduler.with_dask(n_workers=1, **done_before)
        if request.param == "jobs":
            return Scheduler.with_jobqueue("pbs", **request.getfixturevalue("jobs"), **done_before)
        dask_limits.preload(done_before.pop("preload", ()), **done_before)
        return Scheduler.with_threads(1)

    yield make
    dask_limits.preload([])


def outcomes(scheduler, *calls):
    """Run one call after the other, and return their results and errors."""
    ended = []
    waiting = list(calls)

    def submit():
        fn, *args = waiting.pop(0)
        scheduler.task(fn, plugins=PynisherPlugin(walltime_limit=(60, "s"))).submit(*args)

    scheduler.on_start(submit)
    scheduler.on_future_result(lambda _, value: ended.append(value))
    scheduler.on_future_exception(lambda _, error: ended.append(error))
    scheduler.on_future_done(lambda _: submit() if waiting else None)
    scheduler.run(on_exception="continue", timeout=90)
    return ended


def test_calls_find_the_modules_and_what_the_initializer_has_set(make):
    scheduler = make(preload=["wave"], initializer=load, initargs=["a"])
    ended = outcomes(scheduler, (look,), (os.abort,), (look,), (time.sleep, 0.2), (look,))
    assert [ended[n] for n in (0, 2, 4)] == [found("a")] * 3


def test_calls_end_with_the_reason_if_the_initializer_fails(make):
    def fail(text):
        raise LookupError(text)

    for error in outcomes(make(initializer=fail, initargs=["no licence"]), (abs, -1), (abs, -2)):
        assert type(error) is exceptions.PreloadError
        assert "LookupError: no licence" in str(error)
        assert "in fail" in error.__cause__.text


def test_calls_end_with_the_reason_if_a_module_does_not_exist(make):
    for error in outcomes(make(preload=["email.no_such_module"]), (abs, -1), (abs, -2)):
        assert type(error) is exceptions.PreloadError
        assert "No module named 'email.no_such_module'" in str(error)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"preload": "numpy"}, TypeError, "preload=['numpy']"),
        ({"preload": 3}, TypeError, "Use a list"),
        ({"preload": [os]}, TypeError, "not the name of a module"),
        ({"preload": ["a b"]}, ValueError, "not the name of a module"),
        ({"preload": ["__main__"]}, ValueError, "not the name of a module"),
        ({"initializer": 3}, TypeError, "cannot be called"),
        ({"initializer": load}, TypeError, "missing a required argument: 'text'"),
        ({"initializer": load, "initargs": "ab"}, TypeError, "initargs=('ab',)"),
        ({"initializer": load, "initargs": 3}, TypeError, "initargs=(3,)"),
        ({"initializer": load, "initargs": [(n for n in "")]}, TypeError, "cannot be pickled"),
        ({"initargs": [1]}, ValueError, "without an initializer"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(arguments, error, text):
    doors = [
        Scheduler.with_processes,
        Scheduler.with_dask,
        lambda **given: Scheduler.with_slurm(cores=1, memory="1 GiB", **given),
        dask_limits.LimitsWorkerPlugin,
    ]
    for door in doors:
        with pytest.raises(error) as caught:
            door(**arguments)
        assert text in str(caught.value)


def test_a_module_that_this_machine_does_not_have_is_refused_where_calls_run_here():
    for door in (
        Scheduler.with_processes,
        Scheduler.with_dask,
        lambda preload: dask_limits.preload(preload),
    ):
        with pytest.raises(ModuleNotFoundError, match="no module named 'no_such_package'"):
            door(preload=["no_such_package.part"])
    Scheduler.with_dask("tcp://127.0.0.1:1", preload=["no_such_package.part"])
    Scheduler.with_slurm(cores=1, memory="1 GiB", preload=["no_such_package.part"])


def test_what_has_no_effect_on_an_executor_is_refused():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="have no effect"):
        Scheduler.with_dask(pool, preload=["wave"])


def test_a_scheduler_shows_what_it_preloads():
    options = factories.processes(1, None, Preload.of(["wave"], load, ["a"])).options
    assert options == {"preload": ["wave"], "initializer": "load"}


def test_what_is_preloaded_last_holds_from_the_next_call_on():
    call = limit(look, wall_time=30)
    assert call()["global"] is None
    try:
        for text in "ab":
            dask_limits.preload(["wave"], load, [text])
            assert call() == found(text)
        dask_limits.preload(["colorsys"])
        assert limit(lambda: "colorsys" in sys.modules, wall_time=30)()
        assert call()["global"] is None
    finally:
        dask_limits.preload([])
    assert call()["global"] is None


def test_an_initializer_needs_no_modules():
    try:
        dask_limits.preload(initializer=load, initargs=["a"])
        assert limit(look, wall_time=30)()["global"] == "a"
    finally:
        dask_limits.preload()
    assert limit(look, wall_time=30)()["global"] is None


def test_the_initializer_of_a_pool_can_preload():
    preload = dask_limits.preload
    with ProcessPoolExecutor(1, initializer=preload, initargs=(["wave"],)) as pool:
        assert pool.submit(limit(look, wall_time=30)).result(timeout=60)["imported"]


def test_a_script_is_initialized_as_with_the_standard_library(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            from dask_limits import limit, preload

            class Model:
                def __init__(self, text): self.text = text

            model, cache = None, {}

            def load(text):
                global model
                model = Model(text)
                cache["text"] = text

            def use():
                return model.text, isinstance(model, Model), cache

            if __name__ == "__main__":
                preload([], load, ["loaded"])
                for _ in range(3):
                    print(limit(use, wall_time=30)())
                print((lambda: model and cache)(), limit(lambda: use(), wall_time=30)())
                print(limit(use, wall_time=30, isolation="fresh")())
                print(type(limit(lambda: model, wall_time=30)()) is Model)
            """)
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )
    one = "('loaded', True, {'text': 'loaded'})"
    assert done.stdout.splitlines() == [*[one] * 3, f"None {one}", one, "True"], done.stderr


def test_an_edited_module_that_is_preloaded_is_imported_anew(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = tmp_path / "edited_and_preloaded.py"
    module.write_text("def answer(): return 1")

    def answer():
        import edited_and_preloaded

        return edited_and_preloaded.answer()

    try:
        dask_limits.preload(["edited_and_preloaded"])
        for n in range(1, 4):
            module.write_text(f"def answer(): return {n}")
            os.utime(module, ns=(0, n * 10**9))
            assert limit(answer, wall_time=30)() == n
    finally:
        dask_limits.preload([])


def test_a_preload_that_failed_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "fails_at_first.py"
    module.write_text("raise RuntimeError('not yet')")
    try:
        dask_limits.preload(["fails_at_first"])
        assert "not yet" in str(limit(abs, wall_time=30).run(-1).exception)
        module.write_text("")
        dask_limits.preload(["fails_at_first"])
        assert limit(abs, wall_time=30)(-1) == 1
        until(lambda: limit(lambda: "fails_at_first" in sys.modules, wall_time=30)())
    finally:
        dask_limits.preload([])
