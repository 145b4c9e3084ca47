"""A backend for joblib whose calls run under limits: `joblib.parallel_config("dask_limits", ...)`.

To import this module registers it. It needs joblib, which comes with the extra `sklearn`.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Unpack

try:
    import joblib
    from joblib.parallel import ParallelBackendBase
except ImportError as error:
    raise ImportError(
        f"dask_limits.joblib needs joblib: run pip install 'dask-limits[sklearn]' ({error})"
    ) from error

from dask_limits.dask.compat.joblib import functions_of
from dask_limits.executors.limited import LimitedExecutor
from dask_limits.future import Future
from dask_limits.limits import Limits, LimitsArguments, name_of
from dask_limits.limits.owner.use import function_key

__all__ = ["LimitedBackend"]

_PATIENCE_S: Final = 10.0
"""How long to wait for the first worker of a cluster, to know how many cores it has. joblib's own
backend for Dask waits as long."""


class LimitedBackend(ParallelBackendBase):  # type: ignore[misc]
    """Runs the calls of `joblib.Parallel` under limits, by a `LimitedExecutor`.

    `parallel_config("dask_limits", ...)` makes one with these arguments. Each call has the limits,
    and runs by itself: a batch of joblib has several calls only if `Parallel` was given a
    `batch_size`, and then has the limits together. A call that goes over a limit is ended with all
    that it has started, and `Parallel` raises the breach, as it does with any error of a call.

    Args:
        where: Where calls run, as for [LimitedExecutor][dask_limits.LimitedExecutor]; None, the
            default, is in `n_jobs` processes of this machine.
        preload: Names of modules to import before the first call.
        initializer: A function that each task process calls once, before its first call.
        initargs: Its arguments.
        options: What else there is to say of where calls run.
        nesting_level: For joblib.
        **limits: Those of each call: see [Limits][dask_limits.Limits].

    Raises:
        ValueError: for an invalid limit or option.
        TypeError: for a number as `where`, which is what `n_jobs` is for.

    Example:
        >>> from joblib import Parallel, delayed, parallel_config
        >>> with parallel_config("dask_limits", n_jobs=2, memory="1 GiB", wall_time="1 m"):
        ...     Parallel()(delayed(pow)(2, n) for n in range(4))
        [1, 2, 4, 8]
    """

    supports_retrieve_callback = True
    default_n_jobs = -1  # all there are, as with Dask's own backend

    def __init__(
        self,
        where: object = None,
        *,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        options: Mapping[str, Any] | None = None,
        nesting_level: int | None = None,
        **limits: Unpack[LimitsArguments],
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        if isinstance(where, int):
            raise TypeError(f"where={where!r} is a number. Specify n_jobs={where!r} instead.")
        Limits(**limits)
        self._where = where
        self._given: dict[str, Any] = {
            "preload": preload,
            "initializer": initializer,
            "initargs": initargs,
            "options": options,
            **limits,
        }
        self._executor: LimitedExecutor | None = None
        self._n_processes = 0
        self._futures: set[Future[Any]] = set()
        self._thread = threading.local()

    # -- what joblib calls -------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at a time, but two at least.

        Of one, joblib would run all calls by itself, in this process and without limits.
        """
        return max(self._n_jobs(n_jobs), 2)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **_: Any) -> int:
        """Begin to run calls."""
        number = self._n_jobs(n_jobs)
        if self._where is None and self._n_processes != number:
            self._close()
            self._n_processes = number
        self._open()
        return max(number, 2)

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Future[Any]:
        """Run a batch of calls, and then the callback with its future."""
        future = self._open().submit(_Batch(func))
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(lambda future: self._call_back(callback, future))
        return future

    apply_async = submit  # as joblib before 1.5 calls it

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch; raises its error."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End all calls."""
        for future in list(self._futures):
            future.cancel()

    # ------------------------------------------------------------------------------------------

    def _call_back(self, callback: Callable[[Any], object], future: Any) -> None:
        """Call a callback of joblib, but not within another one.

        It submits the next batch. Where that is done at once, so would its callback be called, and
        so on.
        """
        waiting: deque[tuple[Callable[[Any], object], Any]] | None
        waiting = getattr(self._thread, "waiting", None)
        if waiting is not None:
            waiting.append((callback, future))
            return
        waiting = self._thread.waiting = deque([(callback, future)])
        try:
            while waiting:
                callback, future = waiting.popleft()
                callback(future)
        finally:
            self._thread.waiting = None

    def _n_jobs(self, n_jobs: int | None) -> int:
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        return n_jobs if n_jobs > 0 else max(self._places() + 1 + n_jobs, 1)

    def _places(self) -> int:
        """How many calls can run at a time, where that is known: else as many as here."""
        known = 0 if self._where is None else self._open().places(_PATIENCE_S)
        return known or int(joblib.cpu_count())

    def _open(self) -> LimitedExecutor:
        """The executor. It lives on for later calls of `Parallel`, until nobody has this."""
        if self._executor is None:
            where, given = self._where, self._given
            if where is None:
                where, given = self._n_processes, given | {"preload": self._preload()}
            self._executor = LimitedExecutor(where, **given)
            self._finalizer = weakref.finalize(
                self, self._executor.shutdown, wait=False, cancel_futures=True
            )
            self._finalizer.atexit = False  # it ends with the program by itself
        return self._executor

    def _preload(self) -> Any:
        """What to import in processes of this machine: what each batch is made of, too."""
        given = self._given["preload"]
        return given if isinstance(given, str) else ("joblib", *given)

    def _close(self) -> None:
        if self._executor is not None:
            self._executor = None
            self._finalizer()


class _Batch:
    """Some calls of joblib, which has them as one function without arguments."""

    def __init__(self, batch: Callable[[], list[Any]]) -> None:
        functions = functions_of(batch)
        name = name_of(functions[0] if functions else batch)
        self.__name__ = name if len(functions) < 2 else f"{len(functions)} calls of {name}"
        self.function_key = function_key(functions[0] if functions else batch)
        self._batch = batch

    def __call__(self) -> list[Any]:
        return self._batch()


joblib.register_parallel_backend("dask_limits", LimitedBackend)
