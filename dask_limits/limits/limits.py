from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from dask_limits.limits.units import Amount, parse_bytes, parse_seconds


@dataclass(frozen=True)
class Limits:
    """What one call may use, with every process it starts. None, the default, is no limit.

    Args:
        memory: Resident memory, shared pages counted once. Bytes, `(2, "GB")` with pynisher's
            1024-based units, or a string as Dask reads it, `"2 GiB"`.
        cpu_time: CPU time of all its processes together, those that have exited included.
            Seconds (fractions count), `(5, "m")`, or `"1h 30m"`.
        wall_time: Time from its start to its end. Forms as for `cpu_time`.
        num_processes: Processes at one time, its own included: 1 lets it start none.
            Threads do not count.

    Raises:
        ValueError: for zero, a negative number, NaN, infinity, or an unknown unit.
        TypeError: for a value of the wrong type.

    Example:
        >>> Limits(memory="2 GiB", wall_time=(5, "m"))
        Limits(memory=2147483648, cpu_time=None, wall_time=300.0, num_processes=None)
        >>> bool(Limits())
        False
    """

    memory: int | None = None
    cpu_time: float | None = None
    wall_time: float | None = None
    num_processes: int | None = None

    def __init__(
        self,
        *,
        memory: Amount | None = None,
        cpu_time: Amount | None = None,
        wall_time: Amount | None = None,
        num_processes: int | None = None,
    ) -> None:
        put = object.__setattr__  # the dataclass is frozen
        put(self, "memory", None if memory is None else parse_bytes(memory, "memory"))
        put(self, "cpu_time", None if cpu_time is None else parse_seconds(cpu_time, "cpu_time"))
        put(self, "wall_time", None if wall_time is None else parse_seconds(wall_time, "wall_time"))
        put(self, "num_processes", None if num_processes is None else _count(num_processes))

    def __bool__(self) -> bool:
        """Whether anything is limited at all."""
        return self != _NO_LIMITS


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"num_processes={value!r} is a {type(value).__name__}. Use a whole number, 1 or more."
        )
    if value < 1:
        raise ValueError(
            f"num_processes={value!r} must be 1 or more: a call is a process itself"
            " (None means no limit)."
        )
    return int(value)


_NO_LIMITS = Limits()
