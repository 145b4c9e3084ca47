from __future__ import annotations

import abc
import sys
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor
from numbers import Real
from typing import Any, ClassVar, Final, Self

from dask_limits.events import Event
from dask_limits.exceptions import Breach, CrashError, GuardianLostError, WorkerLostError
from dask_limits.executors import Call, Future
from dask_limits.limits import LimitedCall, Limits
from dask_limits.plugins.base import RETRY, Plugin
from dask_limits.units import Duration, format_seconds, parse_delay, whole_number

_LARGEST: Final = 2.0**62
"""Bytes or seconds. No retry raises a limit further, because limits are sent as 64 bits."""


class LostWorker(Exception, metaclass=abc.ABCMeta):
    """Any exception that means that a worker died with the call. For `on` and `isinstance`.

    These are `WorkerLostError`; `BrokenExecutor` of the standard library, the base class of
    `ClusterLostError` and of the errors of loky and of process pools; and Dask's `KilledWorker`,
    which is recognized without importing Dask.
    """

    @classmethod
    def __subclasshook__(cls, kind: type) -> bool:
        dasks = ("distributed.scheduler", "KilledWorker")
        return any(
            base in (BrokenExecutor, WorkerLostError)
            or (base.__module__, base.__qualname__) == dasks
            for base in kind.__mro__
        )


class Retry(Plugin):
    """Submits a call again when it has failed, on request with higher limits.

    The call keeps the future that `task.submit` returned. It is done when the last attempt is, and
    the events of the task and of other plugins are emitted once, at that time. The future has the
    usage of the last attempt, `attempts` (how many there were) and `earlier` (the exceptions of
    the earlier ones). The exception of the last attempt has notes about these, and `earlier` too.
    Cancelling the future ends the present attempt, and there is no further one.

    A [Limiter][dask_limits.Limiter] counts a call once, and as running between attempts. When the
    run is ending, nothing is submitted again: a running attempt is the last one, and a call that
    waits for its next attempt is cancelled.

    With several of these on a task, each counts its own retries. The first one attached that
    would retry does.

    Args:
        max_retries: How many times a call is submitted again at most, 0 or more.
        on: The exceptions after which a call is submitted again: a class, or several. By default
            `Retry.USUAL`: breaches of a limit, crashes, and lost guardians and workers.
        memory_factor: The factor by which each retry raises the memory limit, 1 or more. A call
            without that limit does not get one.
        wall_time_factor: The same for the wall time limit.
        cpu_time_factor: The same for the CPU time limit.
        delay: How long to wait before each retry: seconds, 0 or more, `(5, "s")`, `"500 ms"`.

    Raises:
        ValueError: for a negative number of retries, a negative delay, or a factor that is below
            1, NaN or infinite.
        TypeError: for an argument of a wrong type, such as an `on` that is not an exception type.

    Example:
        >>> import time
        >>> from dask_limits import PynisherPlugin, Scheduler
        >>> scheduler = Scheduler.with_processes(1)
        >>> limits = PynisherPlugin(walltime_limit=0.2)
        >>> retry = Retry(max_retries=3, wall_time_factor=50)
        >>> nap = scheduler.task(time.sleep, plugins=[limits, retry])
        >>> @nap.on("retry")
        ... def tell(future, exception, attempt):
        ...     print(type(exception).__name__, "so on to attempt", attempt)
        >>> _ = nap.on_result(lambda future, _: print("done after", future.attempts))
        >>> _ = scheduler.on_start(lambda: nap.submit(0.4))
        >>> _ = scheduler.run()
        WallTimeBreach so on to attempt 2
        done after 2
    """

    name: ClassVar[str] = "retry"

    USUAL: tuple[type[BaseException], ...] = (Breach, CrashError, GuardianLostError, LostWorker)
    """The default of `on`. Extend it by `on=(*Retry.USUAL, OSError)`."""

    RETRY: Event[[Future[Any], BaseException, int]] = RETRY

    def __init__(
        self,
        max_retries: int,
        *,
        on: type[BaseException] | Iterable[type[BaseException]] = USUAL,
        memory_factor: float = 1,
        wall_time_factor: float = 1,
        cpu_time_factor: float = 1,
        delay: Duration = 0,
    ) -> None:
        self.max_retries = whole_number(max_retries, "max_retries", least=0)
        self.on = _kinds(on)
        self.memory_factor = _factor("memory_factor", memory_factor)
        self.wall_time_factor = _factor("wall_time_factor", wall_time_factor)
        self.cpu_time_factor = _factor("cpu_time_factor", cpu_time_factor)
        self.delay = parse_delay(delay)
        self._n_retries: dict[Future[Any], int] = {}  # of calls that are not done

    def next_attempt(
        self, future: Future[Any], exception: BaseException, call: Call
    ) -> tuple[Call, float] | None:
        """Submit the call again if `on` names the exception, and there are retries left."""
        n_retries = self._n_retries.get(future, 0)
        if n_retries >= self.max_retries or not isinstance(exception, self.on):
            return None
        self._n_retries[future] = n_retries + 1
        fn, args, kwargs = call
        if isinstance(fn, LimitedCall):
            fn = LimitedCall(fn.fn, self._raised(fn.limits))
        return (fn, args, kwargs), self.delay

    def post_done(self, future: Future[Any]) -> None:
        """Forget the retries of a call that has ended."""
        self._n_retries.pop(future, None)

    def copy(self) -> Self:
        """Return a plugin like this one, attached to no task."""
        same = super().copy()
        vars(same)["_n_retries"] = {}
        return same

    def _raised(self, limits: Limits) -> Limits:
        raised: dict[str, Any] = {}
        for name, factor in self._factors().items():
            limit: float | None = getattr(limits, name)
            if limit is not None and limit < _LARGEST:
                raised[name] = min(limit * factor, _LARGEST)
        return Limits(**limits.as_dict() | raised)

    def _factors(self) -> dict[str, float]:
        factors = {
            "memory": self.memory_factor,
            "wall_time": self.wall_time_factor,
            "cpu_time": self.cpu_time_factor,
        }
        return {name: factor for name, factor in factors.items() if factor != 1}

    def _rows(self) -> list[str]:
        rows = [f"At most {self.max_retries} times"]
        rows += [f"Each time {name} x {factor:g}" for name, factor in self._factors().items()]
        if self.delay:
            rows.append(f"After {format_seconds(self.delay)}")
        return [*rows, f"On {', '.join(kind.__name__ for kind in self.on)}"]

    def __repr__(self) -> str:
        return f"Retry(max_retries={self.max_retries})"


def _kinds(value: Any) -> tuple[type[BaseException], ...]:
    one = isinstance(value, type | str) or not isinstance(value, Iterable)
    kinds = (value,) if one else tuple(value)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(
                f"on={value!r} contains {kind!r}, which is not an exception type. Use one, or"
                " several: on=(MemoryError, OSError)."
            )
    if not kinds:
        raise ValueError(f"on={value!r} names no exception type, so nothing would be retried")
    return kinds


def _factor(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} ({type(value).__name__}) must be a number, 1 or more.")
    if not 1 <= value <= sys.float_info.max:  # type: ignore[operator]  # Real compares with int
        raise ValueError(
            f"{name}={value!r} must be finite, and 1 or more: a retry raises limits (1 keeps them)"
        )
    return float(value)
