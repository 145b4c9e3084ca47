from __future__ import annotations

import sys
import time

import cloudpickle
import pytest
from scheduled import plugin_events

from dask_limits import (
    ExitState,
    Limits,
    PynisherPlugin,
    Scheduler,
    exceptions,
)
from dask_limits.limits import limit

# Importing this module takes time, in each of many task processes.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

KB = 1024


def burn():
    while True:
        pass


def hog():
    hoard = []
    while True:
        hoard.append(bytearray(16 * KB * KB))


def breed():
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)


@pytest.mark.parametrize("make", [Scheduler.with_threads, Scheduler.with_processes])
@pytest.mark.parametrize(
    ("fn", "args", "limits", "events", "kind"),
    [
        (
            time.sleep,
            (60,),
            {"walltime_limit": (0.2, "s")},
            ["pynisher-timeout", "pynisher-walltime-limit"],
            exceptions.WallTimeoutException,
        ),
        (
            burn,
            (),
            {"cpu_time_limit": "300 ms"},
            ["pynisher-timeout", "pynisher-cputime-limit"],
            exceptions.CpuTimeoutException,
        ),
        (
            hog,
            (),
            {"memory_limit": (200, "mb")},
            ["pynisher-memory-limit"],
            exceptions.MemoryLimitException,
        ),
        (
            breed,
            (),
            {"process_limit": 1},
            ["pynisher-process-limit"],
            exceptions.ProcessLimitException,
        ),
    ],
)
def test_each_breach_has_its_events_after_the_tasks_own(make, fn, args, limits, events, kind):
    scheduler = make(1)
    task = scheduler.task(fn, plugins=PynisherPlugin(**limits))
    seen = []
    for event in task.emitter.events:
        task.on(event)(lambda *args, name=event.name: seen.append((name, args[-1])))
    futures = []
    scheduler.on_start(lambda: futures.append(task.submit(*args)))
    assert scheduler.run(on_exception={kind: "continue"}).code == ExitState.EXHAUSTED
    assert [name for name, _ in seen[1:]] == ["on-done", "on-exception", *events]
    for _, exception in seen[2:]:
        assert isinstance(exception, kind)
    assert futures[0].usage.wall_time > 0


def test_the_limits_plugin_leaves_calls_within_their_limits_alone():
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(pow, plugins=PynisherPlugin(wall_time_limit=30, memory_limit="1 GiB"))
    seen, results = plugin_events(task), []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(2, 10) and None)
    scheduler.run()
    assert (results, seen) == ([1024], [])


def test_of_two_limits_the_stricter_holds(scheduler):
    plugin = PynisherPlugin(walltime_limit=5, memory_limit="1 GiB")
    fn = limit(abs, wall_time=10, memory="1 MiB", cpu_time=1)
    call, args, kwargs = plugin.pre_submit(fn, 3)
    assert call.limits == Limits(wall_time=5, memory="1 MiB", cpu_time=1)
    assert (call.fn, args, kwargs) == (abs, (3,), {})


def test_both_spellings_are_known_and_giving_both_is_an_error():
    old = PynisherPlugin(wall_time_limit=(5, "m"), cpu_time_limit=60)
    new = PynisherPlugin(walltime_limit=(5, "m"), cputime_limit=60)
    for plugin in (old, new, new.copy()):
        assert plugin.walltime_limit == plugin.wall_time_limit == (5, "m")
        assert plugin.cputime_limit == plugin.cpu_time_limit == 60
        assert plugin.limits == Limits(wall_time=300, cpu_time=60)
    by_limits = PynisherPlugin(wall_time="00:05:00", cpu_time=60, memory="1 GiB", num_processes=2)
    assert by_limits.limits == Limits(wall_time=300, cpu_time=60, memory="1 GiB", num_processes=2)
    assert (by_limits.walltime_limit, by_limits.process_limit) == ("00:05:00", 2)
    with pytest.raises(ValueError, match="wall_time='soon'"):
        PynisherPlugin(wall_time="soon")
    with pytest.raises(TypeError, match="walltime_limit and wall_time_limit"):
        PynisherPlugin(walltime_limit=1, wall_time_limit=1)


@pytest.mark.parametrize("name", ["memory_limit", "cputime_limit", "walltime_limit"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), (1, "parsec"), "1 parsec", ""])
def test_a_limit_that_makes_no_sense_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=name):
        PynisherPlugin(**{name: value})


def test_a_memory_limit_that_no_call_can_keep_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"memory_limit='500' is 500 bytes.*\"500 MiB\""):
        PynisherPlugin(memory_limit="500")


def test_context_is_kept_and_copied():
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    assert PynisherPlugin(memory_limit="1 GiB", context=context).copy().context is context


def test_supports_knows_four_kinds():
    for kind in ("wall_time", "cpu_time", "memory", "num_processes"):
        assert PynisherPlugin.supports(kind) is True
    with pytest.raises(ValueError, match="'wall_time', 'cpu_time', 'memory', 'num_processes'"):
        PynisherPlugin.supports("disk")


def test_the_exceptions_are_pynishers_own():
    import pynisher.exceptions

    for name in (
        "PynisherException",
        "TimeoutException",
        "MemoryLimitException",
        "CpuTimeoutException",
        "WallTimeoutException",
    ):
        assert getattr(PynisherPlugin, name) is getattr(pynisher.exceptions, name)
