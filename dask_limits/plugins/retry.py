from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from dask_limits.display import render
from dask_limits.events import Event
from dask_limits.exceptions import Breach, CrashError, GuardianLostError, WorkerLostError
from dask_limits.limits import LimitedCall, Limits
from dask_limits.plugins.base import RETRY, Plugin
from dask_limits.units import Amount, format_seconds, parse_seconds, whole_number

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dask_limits.executors import Call, Future

_LARGEST: Final = 2.0**62
"""Bytes, or seconds: where raising ends. A limit has 64 bits, and is out of reach long before."""


class LostWorker(Exception, metaclass=abc.ABCMeta):
    """Any exception that says that a worker died with the call: for `on` and for `isinstance`.

    These are our `WorkerLostError`; `BrokenExecutor` of the standard library, which our
    `ClusterLostError` and the errors of loky and of process pools are too; and Dask's
    `KilledWorker`, which it knows without importing Dask.
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
    """Submits a call again when it has failed in certain ways, if you like with higher limits.

    The future that `task.submit` returned stays the call's future: it ends when the last attempt
    does, and the events of the task and of other plugins come once, for that end. It has the
    usage of the last attempt, `attempts` (how many there were) and `earlier` (what the earlier
    ones failed with). The exception of the last one has a note about each earlier one, and them
    as its attribute `earlier`. Cancelling the future ends it all, whatever attempt it is at.

    A call that is submitted again is still the same call: a [Limiter][dask_limits.Limiter] counts
    it once, and it keeps its place there between attempts. When the run is ending, nothing is
    submitted again: an attempt that runs is then the last, and a call that waits for its next one
    is cancelled.

    With several of these on a task, each counts the retries that it makes; of those that would
    retry, the first attached does.

    Args:
        max_retries: How often a call is submitted again at most, 0 or more.
        on: The exceptions after which it is: a class, or several. Default: `Retry.USUAL`, which
            are breaches of a limit, crashes, and lost guardians and workers.
        memory_factor: What each retry multiplies the limit on memory by, 1 or more. Limits that
            a call does not have are not made up.
        wall_time_factor: Likewise for wall time.
        cpu_time_factor: Likewise for CPU time.
        delay: How long to wait before each retry: seconds, 0 or more, `(5, "s")`, `"500 ms"`.

    Raises:
        ValueError: for a negative number of retries or delay, or a factor that is below 1, NaN
            or infinite.
        TypeError: for something of the wrong type, such as an `on` that is not an exception.

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

    USUAL: ClassVar[tuple[type[BaseException], ...]] = (
        Breach,
        CrashError,
        GuardianLostError,
        LostWorker,
    )
    """What a call is submitted again after unless `on` says otherwise. To have more of it:
    `on=(*Retry.USUAL, OSError)`."""

    RETRY: ClassVar[Event[[Future[Any], BaseException, int]]] = RETRY

    def __init__(
        self,
        *,
        max_retries: int,
        on: type[BaseException] | Iterable[type[BaseException]] = USUAL,
        memory_factor: float = 1,
        wall_time_factor: float = 1,
        cpu_time_factor: float = 1,
        delay: Amount = 0,
    ) -> None:
        self.max_retries = whole_number(max_retries, "max_retries", least=0)
        self.on = _kinds(on)
        self.memory_factor = _factor("memory_factor", memory_factor)
        self.wall_time_factor = _factor("wall_time_factor", wall_time_factor)
        self.cpu_time_factor = _factor("cpu_time_factor", cpu_time_factor)
        self.delay = _delay(delay)
        self._n_retries: dict[Future[Any], int] = {}  # of calls that are not done

    def next_attempt(
        self, future: Future[Any], exception: BaseException, call: Call
    ) -> tuple[Call, float] | None:
        """Have the call submitted again if the failure is meant, and it has retries left."""
        n_retries = self._n_retries.get(future, 0)
        if n_retries >= self.max_retries or not isinstance(exception, self.on):
            return None
        self._n_retries[future] = n_retries + 1
        fn, args, kwargs = call
        if isinstance(fn, LimitedCall):
            fn = LimitedCall(fn.fn, self._raised(fn.limits))
        return (fn, args, kwargs), self.delay

    def post_done(self, future: Future[Any]) -> None:
        """Forget a call that has ended."""
        self._n_retries.pop(future, None)

    def copy(self) -> Self:
        """A plugin that does the same, attached to no task."""
        return type(self)(
            max_retries=self.max_retries,
            on=self.on,
            memory_factor=self.memory_factor,
            wall_time_factor=self.wall_time_factor,
            cpu_time_factor=self.cpu_time_factor,
            delay=self.delay,
        )

    def _raised(self, limits: Limits) -> Limits:
        """The same limits, each times its factor."""
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

    def __rich__(self) -> RenderableType:
        rows = [f"At most {self.max_retries} times"]
        rows += [f"Each time {name} x {factor:g}" for name, factor in self._factors().items()]
        if self.delay:
            rows.append(f"After {format_seconds(self.delay)}")
        rows.append(f"On {', '.join(kind.__name__ for kind in self.on)}")
        return render.plugin_panel(self.name, rows)

    def __repr__(self) -> str:
        return f"Retry(max_retries={self.max_retries})"


def _kinds(value: object) -> tuple[type[BaseException], ...]:
    kinds = (value,) if isinstance(value, type | str) or not isinstance(value, Iterable) else value
    found: list[type[BaseException]] = []
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(
                f"on={value!r} has {kind!r} in it, which is no class of exceptions. Use one,"
                " or several: on=(MemoryError, OSError)."
            )
        found.append(kind)
    if not found:
        raise ValueError(f"on={value!r} names no exception, so nothing would ever be retried")
    return tuple(found)


def _factor(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}. Use a number, 1 or more.")
    try:
        factor = float(value)
    except OverflowError:  # a whole number can be larger than any float
        factor = math.inf
    if not 1 <= factor < math.inf:
        raise ValueError(
            f"{name}={value!r} must be finite, and 1 or more: a retry raises limits (1 keeps them)"
        )
    return factor


def _delay(value: Amount) -> float:
    return 0.0 if value == 0 and value is not False else parse_seconds(value, "delay")
