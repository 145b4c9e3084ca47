"""Ten calls with the same large array."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from dask_jobqueue import SLURMCluster
from distributed import Client

from benchmarks.functions import touch
from benchmarks.row import Measure, Peer, Row, at_least, at_most
from benchmarks.rows.dask import client_of_two
from benchmarks.rows.slurm import JOB, JOBS, slurm
from benchmarks.timing import LIMITS, seconds
from dask_limits import LimitedExecutor, share

CALLS: Final = 10
Where = Callable[[], contextlib.AbstractContextManager[Executor]]


@contextlib.contextmanager
def processes() -> Iterator[Executor]:
    with LimitedExecutor(2, **LIMITS) as executor:
        yield executor


@contextlib.contextmanager
def on_dask() -> Iterator[Executor]:
    with client_of_two() as client, LimitedExecutor(client, **LIMITS) as executor:
        yield executor


@contextlib.contextmanager
def on_slurm() -> Iterator[Executor]:
    with slurm() as folder:
        options = {"n_workers": JOBS, "shared_temp_directory": str(folder), **JOB}
        with LimitedExecutor("slurm", options=options, wall_time=60, memory="300 MiB") as executor:
            yield executor


def of(megabytes: int) -> Any:
    return np.ones(megabytes * 125_000)


def run(executor: Executor, argument: Any) -> None:
    """Make the calls, all at once."""
    futures = [executor.submit(touch, argument) for _ in range(CALLS)]
    assert all(future.result() for future in futures)


def shared(where: Where) -> Measure:
    """Seconds of all calls, and of sharing the array before them."""

    def measure(megabytes: int) -> float:
        array = of(megabytes)
        with where() as executor:
            run(executor, of(1))
            return seconds(lambda: run(executor, share(array)))

    return measure


def passed(where: Where) -> Measure:
    """The same with the array itself."""

    def measure(megabytes: int) -> float:
        array = of(megabytes)
        with where() as executor:
            run(executor, of(1))
            return seconds(lambda: run(executor, array))

    return measure


def copies(where: Where) -> Measure:
    """How often its processes hold the array, beside itself, once the calls are done."""

    def measure(megabytes: int) -> float:
        array = of(megabytes)
        with where() as executor:
            run(executor, of(1))
            before = memory_in_use()
            handle = share(array)
            run(executor, handle)
            gc.collect()
            return max(memory_in_use() - before, 0) / array.nbytes

    return measure


def memory_in_use() -> int:
    """Bytes of this process and all below it, and of files in memory that they have open."""
    own, mapped, files = 0, 0, {}
    this = psutil.Process()
    for pid in (this.pid, *(process.pid for process in this.children(recursive=True))):
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):  # it has just ended
            lines = map(str.split, (folder / "smaps_rollup").read_text().splitlines())
            kib = {name: int(figure) for name, figure, unit, *_ in lines if unit == "kB"}
            own += kib["Pss_Anon:"] * 1024
            mapped += kib["Pss_Shmem:"] * 1024
            for file in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(file.readlink()).startswith("/memfd:"):
                        files[file.stat().st_ino] = file.stat().st_blocks * 512
    return own + max(mapped, sum(files.values()))


def scattered(client: Client, array: Any) -> None:
    """What a user of Dask does by hand, without limits."""
    future = client.scatter(array)
    futures = [client.submit(touch, future, pure=False) for _ in range(CALLS)]
    assert all(client.gather(futures))


def scatter_on_dask(megabytes: int) -> float:
    array = of(megabytes)
    with client_of_two() as client:
        scattered(client, of(1))
        return seconds(lambda: scattered(client, array))


def scatter_on_slurm(megabytes: int) -> float:
    with slurm() as folder:
        figure = scatter_to_jobs(folder, of(megabytes))
        gc.collect()  # the cluster removes files in the folder
        return figure


def scatter_to_jobs(folder: Path, array: Any) -> float:
    with (
        SLURMCluster(
            n_workers=JOBS,
            processes=1,
            security=True,
            log_directory=str(folder),
            shared_temp_directory=str(folder),
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
            **JOB,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(JOBS)
        scattered(client, of(1))
        return seconds(lambda: scattered(client, array))


def joblib(megabytes: int) -> float:
    """Arrays of more than 1 MB are written to a file, once, and mapped."""
    from joblib import Parallel, delayed

    array = of(megabytes)
    with Parallel(2) as parallel:
        parallel(delayed(touch)(number) for number in [of(1)] * CALLS)
        return seconds(lambda: parallel(delayed(touch)(array) for _ in range(CALLS)))


def ray(megabytes: int) -> float:
    import ray

    array = of(megabytes)
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        remote = ray.remote(touch)

        def run(argument: Any) -> None:
            place = ray.put(argument)
            assert all(ray.get([remote.remote(place) for _ in range(CALLS)]))

        run(of(1))
        return seconds(lambda: run(array))


ROWS = (
    Row(
        "shared",
        "ten calls with an array of {size} MB by `share`, two processes, limited",
        "s",
        shared(processes),
        full=160,
        quick=160,
        tiny=2,
        peers=(
            Peer("passed", "itself, the array without `share`", passed(processes), at_least(1)),
            Peer("joblib", "joblib, which maps it from a file, no limits", joblib),
            Peer("ray", "Ray, `ray.put`, no limits", ray),
        ),
    ),
    Row(
        "shared-copies",
        "copies of an array of {size} MB that ten calls share, two processes",
        "copies",
        copies(processes),
        full=160,
        quick=160,
        goal=at_most(1.2),
        rounds=3,
    ),
    Row(
        "shared-dask",
        "ten calls with an array of {size} MB by `share`, two workers, limited",
        "s",
        shared(on_dask),
        full=160,
        quick=160,
        peers=(
            Peer("scatter", "`client.scatter` by hand, no limits", scatter_on_dask, at_most(1.2)),
            Peer("passed", "itself, the array without `share`", passed(on_dask)),
        ),
    ),
    Row(
        "shared-dask-copies",
        "copies of an array of {size} MB that ten calls share, two workers",
        "copies",
        copies(on_dask),
        full=160,
        quick=160,
        goal=at_most(1.2),
        rounds=3,
    ),
    Row(
        "shared-slurm",
        "ten calls with an array of {size} MB by `share`, two jobs on SLURM, limited",
        "s",
        shared(on_slurm),
        full=160,
        peers=(
            Peer("scatter", "`client.scatter` by hand, no limits", scatter_on_slurm, at_most(1.2)),
            Peer("passed", "itself, the array without `share`", passed(on_slurm)),
        ),
        rounds=3,
    ),
)
