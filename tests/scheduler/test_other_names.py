"""What people who know other libraries write first: it works, or is answered with what to write."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dask_limits
from dask_limits import LimitedExecutor, Limits, PynisherPlugin, Scheduler, command, limit
from dask_limits.instead import instead_of
from dask_limits.scheduler.feed import zipped

MADE = Scheduler.with_processes


@pytest.mark.parametrize("where", [(), (None,), (2,)])
def test_a_scheduler_on_a_number_of_processes_is_made_as_a_limited_executor_is(where: Any) -> None:
    scheduler = Scheduler(*where)
    places = repr(LimitedExecutor(*where)).removeprefix("LimitedExecutor(").partition(",")[0]
    assert repr(scheduler).startswith(f"Scheduler({places},") and "process" in places
    results: list[int] = []
    scheduler.on_start(lambda: scheduler.submit(abs, -3))
    scheduler.on_future_result(lambda _, result: results.append(result))
    assert scheduler.run(timeout=60).code == "exhausted"
    assert results == [3]


def test_an_address_and_a_new_cluster_of_dask_have_their_words() -> None:
    assert "Dask cluster at tcp://127.0.0.1:1" in repr(Scheduler("tcp://127.0.0.1:1"))
    assert re.search(r"Dask cluster of \d+ workers? on this machine", repr(Scheduler("dask")))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Scheduler(max_workers=2), "Scheduler(2) has so many processes"),  # type: ignore[call-arg]
        (lambda: Scheduler(4, cores=1), "Scheduler.with_processes(), with_dask(), with_slurm()"),  # type: ignore[call-arg]
        (lambda: Scheduler(4, memory=1), "scheduler.task(function, memory="),  # type: ignore[call-arg]
        (lambda: MADE(n_workers=4), "did you mean 'max_workers'?"),  # type: ignore[call-arg]
        (lambda: MADE(2, memory="1 GiB"), "scheduler.task(function, memory="),  # type: ignore[call-arg]
        (lambda: MADE(2, max_tasks_per_child=3), "with_processes(max_calls_per_process=3)"),  # type: ignore[call-arg]
        (lambda: Scheduler.with_threads(n_jobs=4), "did you mean 'max_workers'?"),  # type: ignore[call-arg]
        (lambda: Scheduler.with_loky(n_jobs=4), "did you mean 'max_workers'?"),  # type: ignore[call-arg]
        (lambda: Scheduler.with_dask(n_jobs=4), "did you mean 'n_workers'?"),
        (lambda: PynisherPlugin(mem="1 GiB"), "did you mean 'memory'?"),  # type: ignore[call-arg]
        (lambda: PynisherPlugin(timeout=3), "did you mean 'wall_time'?"),  # type: ignore[call-arg]
        (lambda: PynisherPlugin(terminate_child_processes=True), "has started ends with it"),  # type: ignore[call-arg]
        (lambda: limit(abs, raises=False), "run(...) returns an Outcome"),  # type: ignore[call-overload]
        (lambda: Limits(grace_period_in_s=1), "did you mean 'grace_period'?"),  # type: ignore[call-arg]
        (lambda: command("true", timeout=3), "limit(command(...), wall_time=3)"),  # type: ignore[call-arg]
        (lambda: command("true", memory="1 GiB"), "limit(command(...), memory='1 GiB')"),  # type: ignore[call-arg]
        (lambda: command("true", check=True), "is a CommandExitError"),  # type: ignore[call-arg]
        (lambda: MADE(1).run(resume="r.sqlite"), "did you mean 'journal'?"),  # type: ignore[call-arg]
        (lambda: MADE(1).task(abs, retries=3), "plugins=Retry(max_retries=3)"),  # type: ignore[call-overload]
        (lambda: MADE(1).task(abs, plugin=()), "did you mean 'plugins'?"),  # type: ignore[call-overload]
        (lambda: MADE(1).task(abs, num_cpus=2), "did you mean 'cores'?"),  # type: ignore[call-overload]
        (lambda: MADE(1).map(abs, [1], chunksize=2), "short calls share their way"),  # type: ignore[arg-type]
        (lambda: MADE(1).run(cancel_futures=True), 'wait="running"'),  # type: ignore[arg-type]
        (lambda: MADE(1).run(time_limit=3), "did you mean 'timeout'?"),  # type: ignore[arg-type]
        (lambda: MADE(1).run(display="yes"), "display='yes' is of type str. Use True, False"),  # type: ignore[arg-type]
        (lambda: MADE(1).run(end_on_empty="no"), "end_on_empty='no' is of type str"),  # type: ignore[arg-type]
        (lambda: Scheduler.with_dask("a:1").task(abs).on("on-result", 3), "must be callable"),  # type: ignore[call-overload]
    ],
)
def test_another_name_is_answered_with_what_to_write(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        make()


@pytest.mark.parametrize("wait", ["no", "all", 2, None])
def test_what_a_run_may_wait_for_is_checked_before_it_starts(wait: Any) -> None:
    scheduler = MADE(1)
    with pytest.raises(ValueError, match=f"wait={wait!r} must be True, .* 'running'"):
        scheduler.run(wait=wait)
    assert scheduler.executor is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_workers", "'n_workers'"),
        ("cpus_per_task", "'cores'"),
        ("mem", "'memory'"),
        ("time", "'walltime'"),
        ("partition", "'queue'"),
        ("gres", 'job_extra_directives=\\["..."\\]'),
        ("xyz", "there are n_workers, cores, memory, walltime, .* more"),
    ],
)
def test_words_of_slurm_and_submitit_are_answered(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Scheduler.with_slurm(cores=1, memory="1 GiB", **{name: 1})


def test_the_right_name_is_one_that_is_there() -> None:
    """A name may be that of several things elsewhere."""
    assert instead_of("n_jobs", 2, ["cores", "memory"]) == "did you mean 'cores'?"
    assert instead_of("n_jobs", 2, ["cores", "n_workers"]) == "did you mean 'n_workers'?"


def test_limits_of_a_task_may_be_its_arguments() -> None:
    """They are as those of the plugin, with its events."""
    scheduler = MADE(1)

    @scheduler.task(wall_time=0.3, memory="1 GiB")
    def nap(seconds: float) -> None:
        time.sleep(seconds)

    breaches: list[BaseException] = []
    nap.on("pynisher-timeout", breaches.append)
    scheduler.on_start(lambda: nap.submit(60))
    scheduler.run(on_exception="continue", timeout=60)
    [breach] = breaches
    assert breach.limits == Limits(wall_time=0.3, memory="1 GiB")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="wall_time=-1"):
        scheduler.task(abs, wall_time=-1)


def test_the_stricter_of_a_tasks_limits_and_its_plugins_counts() -> None:
    scheduler = MADE(1)
    task = scheduler.task(abs, plugins=PynisherPlugin(wall_time=5), wall_time=50, memory="1 GiB")
    limits: list[Limits] = []
    scheduler.on_future_submitted(lambda future: limits.append(scheduler.queue[future][0].limits))
    scheduler.on_start(lambda: task.submit(-1))
    scheduler.run(timeout=60)
    assert limits == [Limits(wall_time=5, memory="1 GiB")]


def test_a_callback_may_be_the_second_argument_of_on() -> None:
    scheduler = MADE(1)
    seen: list[int] = []

    def keep(future: Any, result: int) -> None:
        seen.append(result)

    assert scheduler.on("on_future_result", keep) is keep
    scheduler.on(scheduler.STARTED, lambda: scheduler.submit(abs, -3))
    scheduler.run(timeout=60)
    assert seen == [3]


def test_map_takes_several_iterables_as_the_built_in_one_does() -> None:
    scheduler, results = MADE(2), list[int]()
    task = scheduler.task(pow)
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: scheduler.map(pow, [2, 3, 4], (n for n in (5, 2))))
    scheduler.on_start(lambda: scheduler.map(task, [10], [2], [7]))
    scheduler.run(timeout=60)
    assert sorted(results) == [2, 9, 32]


def test_how_many_calls_there_will_be_is_known_if_all_lengths_are() -> None:
    assert zipped(print, [2, 3, 4], (5, 2))[2] == 2
    assert zipped(print, [2, 3, 4], iter([5]))[2] is None


def test_the_version_is_that_of_the_package_and_costs_nothing_until_it_is_asked_for() -> None:
    assert dask_limits.__version__ == importlib.metadata.version("dask-limits")
    program = "import dask_limits, sys; assert 'importlib.metadata' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-S", "-c", program], check=True, cwd=root, timeout=60)
