"""One name for each place where calls run, in all that people see of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from dask_limits import LimitedExecutor, Scheduler, SequentialExecutor
from dask_limits.executors import names
from dask_limits.executors.processes import ProcessExecutor
from dask_limits.executors.wrapped import WrappedExecutor

MADE: dict[str, Callable[[], Scheduler]] = {
    "2 processes": lambda: Scheduler.with_processes(2),
    "2 threads": lambda: Scheduler.with_threads(2),
    "2 processes of loky": lambda: Scheduler.with_loky(2),
    "the calling thread": Scheduler.with_sequential,
    "Dask cluster of 1 worker on this machine": lambda: Scheduler.with_dask(n_workers=1),
    "Dask cluster at tcp://node1:8786": lambda: Scheduler.with_dask("tcp://node1:8786"),
    "SLURM jobs": lambda: Scheduler.with_slurm(n_workers=1, cores=1, memory="1 GiB"),
}


@pytest.mark.parametrize("name", MADE)
def test_a_scheduler_calls_its_place_by_what_people_say(name: str) -> None:
    """Its `repr()` has other arguments too."""
    scheduler = MADE[name]()
    assert repr(scheduler).startswith(f"Scheduler({name},")
    assert name in scheduler._repr_html_()
    assert name in scheduler._repr_mimebundle_()["text/plain"]


HELD: dict[str, Callable[[], Executor]] = {
    "2 threads": lambda: ThreadPoolExecutor(2),
    "2 processes": lambda: ProcessPoolExecutor(2),
    "1 process": lambda: ProcessExecutor(1),
    "1 thread": lambda: WrappedExecutor(ThreadPoolExecutor(1), owned=True),
    "the calling thread": SequentialExecutor,
    "Mine": lambda: type("Mine", (Executor,), {})(),
}


@pytest.mark.parametrize("name", HELD)
def test_so_it_is_with_an_executor_that_is_there(name: str) -> None:
    """One that nobody knows has the name of its class."""
    with HELD[name]() as held:
        assert repr(Scheduler(held)) == f"Scheduler({name}, 0 not done)"
        with LimitedExecutor(held) as executor:
            assert repr(executor).startswith(f"LimitedExecutor({name}, ")


def test_a_dask_cluster_is_at_its_address_if_it_has_one() -> None:
    """A Client has it elsewhere than a Cluster; one that is closed may have none."""
    address: Any = "tcp://node1:8786"
    client = SimpleNamespace(scheduler=SimpleNamespace(address=address))
    for held in (client, SimpleNamespace(scheduler_address=address)):
        assert names.dask_of(held) == f"Dask cluster at {address}"
    assert names.dask_of(SimpleNamespace(scheduler=None)) == "Dask cluster"


def test_the_log_and_the_lines_of_a_run_have_the_same_name(caplog, capsys) -> None:
    """Of what a run is displayed, and of what is logged."""
    caplog.set_level(logging.INFO, "dask_limits.run")
    scheduler = Scheduler.with_threads(2)
    scheduler.on_start(lambda: scheduler.submit(abs, -1))
    scheduler.run(display=True)
    assert "Run started on 2 threads" in caplog.messages
    assert " run on 2 threads (exhausted" in capsys.readouterr().out
