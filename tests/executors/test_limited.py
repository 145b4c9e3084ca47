"""A `LimitedExecutor` is one of the standard library, with limits; see test_contract too."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from processes import alive, all_gone, start_sleeping, written_pid

from dask_limits import LimitedExecutor, SequentialExecutor, exceptions, limit

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest
MIB = 2**20
PLACES = (
    'Use a number of processes of this machine.* Dask Client or Cluster.*"tcp://.* "dask" .*'
    "'slurm', 'pbs', 'sge', 'lsf', 'oar', 'moab', 'htcondor'.* any concurrent.futures.Executor"
)


def has(mib: int) -> int:
    return len(bytearray(mib * MIB))


def test_a_breach_costs_one_call_and_futures_have_their_usage() -> None:
    with LimitedExecutor(2, memory="200 MiB", wall_time=60) as executor:
        futures = {executor.submit(has, mib): mib for mib in (1, 400, 2)}
        ended = {futures[future]: future for future in as_completed(futures)}
        assert isinstance(ended[400].exception(), exceptions.MemoryBreach)
        assert [ended[mib].result() for mib in (1, 2)] == [MIB, 2 * MIB]
        assert ended[2].usage is not None
        assert ended[2].usage.peak_memory > MIB


def test_the_limits_of_a_call_come_before_those_of_the_executor() -> None:
    with LimitedExecutor(1, memory="100 MiB", wall_time=60) as executor:
        assert executor.submit(limit(has, memory="500 MiB"), 200).result() == 200 * MIB
        error = executor.submit(limit(time.sleep, wall_time=0.2), 60).exception()
        assert isinstance(error, exceptions.WallTimeBreach)
        error = executor.submit(limit(has, wall_time=30), 300).exception()
        assert isinstance(error, exceptions.MemoryBreach)
        assert list(executor.map(limit(has, memory="500 MiB"), [200])) == [200 * MIB]
        limits = "Limits(memory=104857600, wall_time=60.0)"
        assert repr(executor) == f"LimitedExecutor(1 process, {limits})"


def test_its_report_has_what_was_submitted_and_what_was_mapped() -> None:
    with LimitedExecutor(2, memory="200 MiB", wall_time=60) as executor:
        executor.submit(has, 400).exception()
        executor.submit(limit(abs, wall_time=30), -1).result()
        assert list(executor.map(has, [1, 2, 3])) == [MIB, 2 * MIB, 3 * MIB]
    rows = list(executor.report())
    assert [(row.task, row.ending) for row in rows] == [
        *[("has", "breach"), ("abs", "returned")],
        *[("has", "returned")] * 3,
    ]
    assert {(row.memory_limit, row.wall_time_limit) for row in rows} == {
        *[(200 * MIB, 60.0), (200 * MIB, 30.0)]
    }
    assert executor.report().suggest_limits()[0].beside == 2
    with ThreadPoolExecutor(2) as pool:
        on_pool = LimitedExecutor(pool, wall_time=60)
        assert list(on_pool.map(abs, [-1, -2])) == [1, 2]
        assert [row.ending for row in on_pool.report()] == ["returned"] * 2


def test_a_call_that_runs_ends_when_it_is_cancelled_and_when_its_coroutine_is(
    tmp_path: Path,
) -> None:
    async def give_up(executor: LimitedExecutor, file: Path) -> int:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, pow, 2, 5) == 32
        running = loop.run_in_executor(executor, start_sleeping, file)
        pid = await asyncio.to_thread(written_pid, file)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return pid

    with LimitedExecutor(1, wall_time=600) as executor:
        future = executor.submit(start_sleeping, tmp_path / "cancelled")
        pid = written_pid(tmp_path / "cancelled")
        assert future.cancel()
        all_gone({pid})
        all_gone({asyncio.run(give_up(executor, tmp_path / "awaited"))})
        future = executor.submit(start_sleeping, tmp_path / "shut down")
        pid = written_pid(tmp_path / "shut down")
        executor.shutdown(cancel_futures=True)
        assert future.cancelled()
        all_gone({pid})


def test_ctrl_c_in_its_block_ends_the_calls(tmp_path: Path) -> None:
    pids = set()

    def interrupted() -> None:
        with LimitedExecutor(1, wall_time=600) as executor:
            executor.submit(start_sleeping, tmp_path / "pid")
            pids.add(written_pid(tmp_path / "pid"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    all_gone(pids)


@pytest.mark.parametrize("pool", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_a_pool_stays_open_and_its_calls_are_done_after_the_shutdown(pool: Any) -> None:
    with pool(2) as given:
        with LimitedExecutor(given, wall_time=30) as executor:
            futures = [executor.submit(time.sleep, 0.1) for _ in range(4)]
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(abs, -1)
        assert given.submit(abs, -3).result() == 3
        executor = LimitedExecutor(given, wall_time=30)
        futures = [executor.submit(time.sleep, 0.2) for _ in range(20)]
        executor.shutdown(cancel_futures=True)
        assert any(future.cancelled() for future in futures)


def test_an_executor_of_ours_is_taken_too() -> None:
    given = SequentialExecutor()
    with LimitedExecutor(given, wall_time=30) as executor:
        assert executor.submit(os.getpid).result() != os.getpid()
    assert given.submit(os.getpid).result() == os.getpid()
    with LimitedExecutor(1) as outer:
        with LimitedExecutor(outer, wall_time=30) as inner:
            future = inner.submit(time.sleep, 0.3)
        assert future.done()
        assert outer.submit(abs, -3).result() == 3


def test_calls_run_on_dask() -> None:
    from distributed import Client

    with LimitedExecutor("dask", wall_time=60, options={"n_workers": 1}) as executor:
        assert executor.submit(pow, 2, 10).result(timeout=60) == 1024
        error = executor.submit(limit(time.sleep, wall_time=0.2), 60).exception(timeout=60)
        assert isinstance(error, exceptions.WallTimeBreach)
    with Client(n_workers=1, dashboard_address=":0") as client:
        for where in (client, client.scheduler.address):
            with LimitedExecutor(where, wall_time=60) as executor:
                assert list(executor.map(abs, [-1, -2], timeout=60)) == [1, 2]
        assert client.submit(abs, -3).result(timeout=60) == 3


def test_what_is_preloaded_is_there_before_the_first_call() -> None:
    with LimitedExecutor(1, preload=["wave"], wall_time=30) as executor:
        assert executor.submit(lambda: "wave" in sys.modules).result()


def test_what_is_not_shut_down_ends_with_its_program(tmp_path: Path) -> None:
    executor = LimitedExecutor(1, wall_time=600)
    executor.submit(start_sleeping, tmp_path / "pid")
    assert alive(written_pid(tmp_path / "pid"))
    executor.shutdown(wait=False, cancel_futures=True)
    all_gone({written_pid(tmp_path / "pid")})


@pytest.mark.parametrize(
    ("where", "options", "error", "text"),
    [
        (0, {}, ValueError, "max_workers=0 must be a whole number, 1 or more"),
        (True, {}, TypeError, "max_workers=True"),
        ("slrum", {}, ValueError, "cannot run on 'slrum'. Did you mean 'slurm'?"),
        ("dsk", {}, ValueError, f"Did you mean 'dask'. {PLACES}"),
        ("", {}, ValueError, f"''. {PLACES}"),
        ("4", {}, ValueError, "'4'. Did you mean the number 4?"),
        (print, {}, TypeError, f"of type builtin_function_or_method. {PLACES}"),
        (ThreadPoolExecutor, {}, TypeError, f"is a class, not an instance. {PLACES}"),
        (
            None,
            {"options": {"max_calls": 2}},
            TypeError,
            "'max_calls' is no option of processes of this machine: the options are"
            " 'max_calls_per_process' and 'reserve'. Did you mean 'max_calls_per_process'?",
        ),
        ("a:1", {"options": {"x": 1}}, TypeError, "'x' .* Dask cluster .* 'security' and 'batch'"),
        (SequentialExecutor(), {"options": {"x": 1}}, TypeError, "'x' .* executor .* has none"),
        (SequentialExecutor(), {"max_workers": 2}, TypeError, "max_workers=2 is for processes"),
        (2, {"memory": "-1 GiB"}, ValueError, "memory='-1 GiB'"),
        (2, {"memory_limit": "1 GiB"}, TypeError, "memory_limit"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_starts(
    where: Any, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.compile(text)):
        LimitedExecutor(where, **options)


FRESH = '.* isolation="fresh" .* context="spawn" or "forkserver"'


@pytest.mark.parametrize(
    ("given", "named", "text"),
    [
        ((2, get_context("spawn")), {}, f"LimitedExecutor\\(2, <.*initializer=.*{FRESH}"),
        ((2, "prefix", print, (1,)), {}, r"need their names \(initializer=, initargs=, memory="),
        (
            (2, "2 GiB"),
            {},
            "'2 GiB'\\): all arguments but the first, where calls run, need their names",
        ),
        ((2,), {"mp_context": get_context("spawn")}, f"has no argument 'mp_context'{FRESH}"),
        ((2,), {"max_tasks_per_child": 1}, 'options={"max_calls_per_process": 1}.*"fresh"'),
        ((2,), {"maxtasksperchild": 9}, 'options={"max_calls_per_process": 9}'),
        ((2,), {"thread_name_prefix": "calls"}, "calls run in processes"),
        ((2,), {"on_progress": print}, "is told by a Scheduler: task.on_progress"),
        ((), {"processes": 4}, "max_workers=4, and num_processes= limits how many a call may have"),
        ((), {"n_jobs": 4}, "has no argument 'n_jobs': the number of processes is max_workers=4"),
        ((), {"max_worker": 4}, "has no argument 'max_worker': did you mean 'max_workers'"),
        ((), {"initialiser": print}, "did you mean 'initializer'"),
        (("dask",), {"max_workers": 4}, '"n_workers": 4'),
    ],
)
def test_what_other_pools_have_is_answered_with_what_there_is(
    given: Any, named: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=re.compile(text)):
        LimitedExecutor(*given, **named)


def test_where_may_have_its_name() -> None:
    with LimitedExecutor(where=1, wall_time=60) as executor:
        assert executor.submit(abs, -3).result() == 3


@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_chunk_has_at_least_one_call(chunksize: int) -> None:
    with LimitedExecutor(1) as executor, pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=chunksize)
