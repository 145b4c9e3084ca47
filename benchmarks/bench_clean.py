"""What a clean process for each call costs, beside one that is used again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import psutil
from measure import compare
from rich.console import Console
from rich.table import Table

from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import NOTHING, Preload

IDLE_S = 20
LEVELS = ("warm", "clean")


def work(seconds: float) -> None:
    """Use the CPU for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def fit() -> float:
    """Fit a small model."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    table = np.arange(400.0).reshape(100, 4)
    return float(
        RandomForestClassifier(5).fit(table, table[:, 0] > 200).score(table, table[:, 0] > 200)
    )


def main() -> None:
    for seconds, times in ((0.05, 40), (0.0, 2000)):
        with Guardian() as guardian:
            compare(
                f"One call of {seconds * 1000:g} ms",
                "ms",
                {level: milliseconds(guardian, seconds, times, level) for level in LEVELS},
                rounds=9,
            )
    Console().print(imports())
    Console().print(idle_owner())


def milliseconds(guardian: Guardian, seconds: float, times: int, level: str) -> Callable[[], float]:
    limits = Limits(wall_time=60, memory="1 GiB", isolation=level)

    def measure() -> float:
        guardian.run(work, (seconds,), {}, limits)
        start = time.perf_counter()
        for _ in range(times):
            guardian.run(work, (seconds,), {}, limits)
        return (time.perf_counter() - start) / times * 1000

    return measure


def imports() -> Table:
    """Calls that use scikit-learn: the first one, the second, and one after a breach."""
    table = Table("", "s", "MiB", title="A call that uses scikit-learn: wall time and memory")
    for name, preload in (("", NOTHING), (", preloaded", Preload.of(["sklearn.ensemble"]))):
        with Guardian(preload=preload) as guardian:
            for level in LEVELS:
                limits = Limits(wall_time=60, isolation=level)
                for which in ("first", "second", "third"):
                    table.add_row(f"{which}, {level}{name}", *one_fit(guardian, limits))
                    time.sleep(2)  # a template is made meanwhile
                guardian.run(time.sleep, (9,), {}, Limits(wall_time=0.1, isolation=level))
                table.add_row(f"after a breach, {level}{name}", *one_fit(guardian, limits))
    return table


def one_fit(guardian: Guardian, limits: Limits) -> tuple[str, str]:
    start = time.perf_counter()
    usage = guardian.run(fit, (), {}, limits).usage
    return f"{time.perf_counter() - start:.3f}", f"{usage.peak_memory / 2**20:.0f}"


def idle_owner() -> Table:
    """What is left of an owner that has run 100 calls at one time."""
    table = Table("", "processes", "MiB, shared pages once", title="Below an owner, by level")
    for level in LEVELS:
        with Guardian() as guardian:
            guardian.run(abs, (1,), {})
            with parallel(guardian, Limits(isolation=level), 100):
                time.sleep(2)
                table.add_row(f"{level}, 100 calls", *below(guardian))
            time.sleep(IDLE_S)
            table.add_row(f"{level}, {IDLE_S} s later", *below(guardian))
    return table


@contextlib.contextmanager
def parallel(guardian: Guardian, limits: Limits, times: int) -> Iterator[None]:
    """Have calls run, all at one time."""
    threads = [
        threading.Thread(target=guardian.run, args=(time.sleep, (3,), {}, limits))
        for _ in range(times)
    ]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def below(guardian: Guardian) -> tuple[str, str]:
    """The processes of a guardian, and their memory."""
    connection = guardian._connection
    assert connection is not None
    reaper = psutil.Process(connection.pid)
    processes = [reaper, *reaper.children(recursive=True)]
    memory = sum(process.memory_full_info().pss for process in processes)
    return str(len(processes)), f"{memory / 2**20:.0f}"


if __name__ == "__main__":
    main()
