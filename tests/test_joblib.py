"""The backend "dask_limits" of joblib."""

from __future__ import annotations

import gc
import multiprocessing
import operator
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from joblib import Parallel, delayed, parallel_config
from processes import all_gone, start_sleeping, written_pid

import dask_limits.joblib
from dask_limits import SequentialExecutor
from dask_limits.exceptions import CrashError, MemoryBreach, WallTimeBreach
from dask_limits.joblib import LimitedBackend

MIB = 2**20


@pytest.fixture(autouse=True)
def backends_end() -> Iterator[None]:
    """Backends end with what refers to them."""
    yield
    gc.collect()


def has(mib: int) -> int:
    return len(bytearray(mib * MIB))


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_calls_run_in_other_processes_each_by_itself() -> None:
    with parallel_config("dask_limits", n_jobs=2, wall_time=60):
        pids = Parallel()(delayed(pid_after)(0.3) for _ in range(4))
        assert Parallel()(delayed(pow)(n, 2) for n in range(500)) == [n**2 for n in range(500)]
        assert Parallel()(delayed(lambda: os.getpid())() for _ in range(1)) != [os.getpid()]
    assert len({*pids, os.getpid()}) >= 3


@pytest.mark.parametrize("n_jobs", [1, 2, -1, None])
def test_no_number_of_jobs_has_calls_run_without_limits(n_jobs: int | None) -> None:
    with parallel_config("dask_limits", wall_time=60):
        assert os.getpid() not in Parallel(n_jobs=n_jobs)(delayed(os.getpid)() for _ in range(3))
        assert joblib.effective_n_jobs(-1) >= 2
        with Parallel(n_jobs=n_jobs) as jobs:
            assert os.getpid() not in jobs(delayed(os.getpid)() for _ in range(3))


def test_one_job_is_one_at_a_time(tmp_path: Path) -> None:
    def alone(n: int) -> bool:
        (tmp_path / f"{n}").touch()
        time.sleep(0.02)
        n_here = len(list(tmp_path.iterdir()))
        (tmp_path / f"{n}").unlink()
        return n_here == 1

    assert all(Parallel(1, "dask_limits")(delayed(alone)(n) for n in range(10)))


def test_a_breach_is_raised_and_ends_the_others(tmp_path: Path) -> None:
    with parallel_config("dask_limits", n_jobs=2, memory="200 MiB"):
        with pytest.raises(MemoryBreach, match=r"^has\(\) went over its memory limit of 200.0 MiB"):
            Parallel()(delayed(has)(mib) for mib in (1, 400, 1))
        with pytest.raises(CrashError):
            Parallel()(delayed(os.kill)(0, 9) if n else delayed(os.abort)() for n in range(1))
        calls = [delayed(start_sleeping)(tmp_path / "pid", 600), delayed(fail_after)(tmp_path)]
        with pytest.raises(ZeroDivisionError, match="division by zero"):
            Parallel()(calls)
        all_gone({written_pid(tmp_path / "pid")})
        assert Parallel()(delayed(abs)(n) for n in range(-3, 0)) == [3, 2, 1]


def fail_after(folder: Path) -> float:
    written_pid(folder / "pid")
    return 1 / 0


def test_a_limit_is_that_of_each_call_also_of_short_ones() -> None:
    with parallel_config("dask_limits", n_jobs=2, wall_time=3):
        assert len(Parallel()(delayed(time.sleep)(0.05) for _ in range(150))) == 150
        with pytest.raises(WallTimeBreach, match=r"^2 calls of sleep\(\)"):
            Parallel(batch_size=2)(delayed(time.sleep)(2) for _ in range(4))


def test_results_come_as_joblib_has_them() -> None:
    with parallel_config("dask_limits", n_jobs=2, wall_time=60):
        assert [*Parallel(return_as="generator")(delayed(abs)(-n) for n in range(9))] == [*range(9)]
        unordered = Parallel(return_as="generator_unordered")(delayed(abs)(-n) for n in range(9))
        assert sorted(unordered) == [*range(9)]
        assert Parallel(pre_dispatch="all")(delayed(abs)(-n) for n in range(9)) == [*range(9)]
        assert Parallel()([]) == []


def test_the_time_out_of_parallel_ends_calls(tmp_path: Path) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(2, "dask_limits", timeout=3)(
            delayed(start_sleeping)(tmp_path / f"{n}", 600) for n in range(2)
        )
    # Of those that had begun by then; one may have been ended while it wrote.
    all_gone({written_pid(file) for file in tmp_path.iterdir() if file.read_text()})


def test_ctrl_c_ends_calls(tmp_path: Path) -> None:
    def interrupt() -> None:
        pids.add(written_pid(tmp_path / "pid"))
        os.kill(os.getpid(), signal.SIGINT)

    pids: set[int] = set()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with parallel_config("dask_limits", n_jobs=2, wall_time=600):
        with pytest.raises(KeyboardInterrupt):
            Parallel()([delayed(start_sleeping)(tmp_path / "pid", 600), delayed(time.sleep)(600)])
        thread.join()
        all_gone(pids)
        assert Parallel()(delayed(abs)(n) for n in range(-3, 0)) == [3, 2, 1]


def test_a_generator_that_is_given_up_ends_its_calls(tmp_path: Path) -> None:
    with parallel_config("dask_limits", n_jobs=2, wall_time=600):
        results = Parallel(return_as="generator")(
            delayed(start_sleeping)(tmp_path / f"{n}", 600) for n in range(2)
        )
        pids = {written_pid(tmp_path / f"{n}") for n in range(2)}
        with pytest.warns(UserWarning, match="have been cancelled"):
            del results
            gc.collect()
    all_gone(pids)


def nested(n: int) -> tuple[str, list[int]]:
    jobs = Parallel(n_jobs=2)
    return type(jobs._backend).__name__, jobs(delayed(operator.mul)(n, k) for k in range(3))


def test_calls_may_be_parallel_themselves_in_threads() -> None:
    with parallel_config("dask_limits", n_jobs=2, num_processes=1):
        assert Parallel()(delayed(nested)(n) for n in (1, 2)) == [
            ("ThreadingBackend", [0, 1, 2]),
            ("ThreadingBackend", [0, 2, 4]),
        ]


@pytest.mark.parametrize("pool", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_calls_run_where_they_are_to(pool: Any) -> None:
    with pool(2) as given, parallel_config("dask_limits", where=given, wall_time=60):
        assert os.getpid() not in Parallel()(delayed(os.getpid)() for _ in range(4))
        with (
            pytest.raises(WallTimeBreach),
            parallel_config("dask_limits", where=given, wall_time=0.3),
        ):
            Parallel()(delayed(time.sleep)(600) for _ in range(1))
        assert given.submit(abs, -3).result() == 3


def test_any_number_of_calls_runs_in_this_thread() -> None:
    with parallel_config("dask_limits", where=SequentialExecutor()):
        assert len(Parallel()(delayed(abs)(n) for n in range(2_000))) == 2_000


@pytest.mark.dask
def test_calls_run_on_dask() -> None:
    from clusters import SETTINGS
    from distributed import Client

    with Client(n_workers=2, threads_per_worker=2, **SETTINGS) as client:
        with parallel_config("dask_limits", where=client, memory="100 MiB"):
            assert joblib.effective_n_jobs(-1) == 4
            workers = client.run(os.getpid).values()
            pids = Parallel()(delayed(pid_after)(0.1) for _ in range(20))
            assert not {*pids} & {os.getpid(), *workers}
            with pytest.raises(MemoryBreach):
                Parallel()(delayed(has)(mib) for mib in (1, 400, 1))
            assert Parallel(n_jobs=1)(delayed(abs)(-n) for n in range(50)) == [*range(50)]
        assert client.submit(abs, -3).result() == 3
    with parallel_config("dask_limits", where="dask", options={"n_workers": 1}, wall_time=60):
        assert Parallel()(delayed(abs)(-n) for n in range(3)) == [0, 1, 2]


def test_what_is_preloaded_is_there_before_the_first_call() -> None:
    with parallel_config("dask_limits", n_jobs=2, preload=["wave"], wall_time=60):
        assert all(Parallel()(delayed(lambda: "wave" in sys.modules)() for _ in range(3)))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"memory": "-1 GiB"}, ValueError, "memory='-1 GiB'"),
        ({"memory_limit": 1}, TypeError, "did you mean 'memory'?"),
        ({"where": 4}, TypeError, "Specify n_jobs=4 instead"),
        ({"n_jobs": 0}, ValueError, "n_jobs == 0"),
        ({"where": print}, TypeError, "builtin_function_or_method"),
        ({"where": "slrum"}, ValueError, "Calls cannot run on 'slrum'. Did you mean 'slurm'?"),
    ],
)
def test_what_is_wrong_is_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)), parallel_config("dask_limits", **options):
        Parallel()(delayed(abs)(n) for n in range(2))


def test_processes_live_on_for_the_next_calls_and_end_with_the_backend() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with parallel_config("dask_limits", n_jobs=2, wall_time=60):
        Parallel()(delayed(abs)(n) for n in range(3))
        there = {child.pid for child in psutil.Process().children()} - before
        Parallel()(delayed(abs)(n) for n in range(3))
        assert {child.pid for child in psutil.Process().children()} - before == there != set()
    gc.collect()
    all_gone(there)


def test_a_program_that_uses_it_ends(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import joblib, dask_limits.joblib
        config = joblib.parallel_config("dask_limits", n_jobs=2, wall_time=60)
        print(joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)))
        """)
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == ("[0, 1, 2]\n", "", 0)


def test_the_backend_can_be_passed_as_an_object() -> None:
    assert Parallel(2, LimitedBackend(wall_time=60))(delayed(abs)(-n) for n in range(3)) == [
        0,
        1,
        2,
    ]
    assert dask_limits.joblib.__all__ == ["LimitedBackend"]
