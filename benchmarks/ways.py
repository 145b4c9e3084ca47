"""Ways to call a function in another process: each makes, of a function, what calls it there."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.timing import LIMITS, Isolation
from dask_limits import limit

Caller = Callable[[Callable[..., Any]], Callable[..., Any]]
Way = Callable[[], contextlib.AbstractContextManager[Caller]]


def limited(isolation: Isolation = "clean") -> Way:
    return lambda: contextlib.nullcontext(lambda fn: limit(fn, **LIMITS, isolation=isolation))


@contextlib.contextmanager
def stdlib() -> Iterator[Caller]:
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        yield lambda fn: lambda *args: pool.submit(fn, *args).result()


@contextlib.contextmanager
def loky() -> Iterator[Caller]:
    from loky import get_reusable_executor

    with get_reusable_executor(1) as pool:
        yield lambda fn: lambda *args: pool.submit(fn, *args).result()


@contextlib.contextmanager
def pebble() -> Iterator[Caller]:
    from pebble import ProcessPool

    with ProcessPool(1) as pool:
        yield lambda fn: lambda *args: pool.schedule(fn, args=args, timeout=60).result()


@contextlib.contextmanager
def pynisher() -> Iterator[Caller]:
    from pynisher import limit

    yield lambda fn: limit(fn, wall_time=60, memory=(4, "GB"), context="fork")


@contextlib.contextmanager
def ray() -> Iterator[Caller]:
    import ray

    def caller(fn: Callable[..., Any]) -> Callable[..., Any]:
        remote = ray.remote(fn)
        return lambda *args: ray.get(remote.remote(*args))

    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        yield caller


@contextlib.contextmanager
def dask() -> Iterator[Caller]:
    from benchmarks.rows.dask import client_of_two

    with client_of_two() as client:
        yield lambda fn: lambda *args: client.submit(fn, *args, pure=False).result()
