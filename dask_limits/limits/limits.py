from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from multiprocessing.context import BaseContext
from typing import Any, Final, Literal, Never, TypedDict, get_args

from dask_limits.instead import instead_of
from dask_limits.units import (
    Amount,
    Duration,
    format_bytes,
    parse_bytes,
    parse_seconds,
    whole_number,
)

Isolation = Literal["clean", "warm", "fresh", "thread"]
"""Where a call runs: in a process in which no call has run, or only short ones of the same
function; in one that runs one call after another; in one that pynisher starts for it; or in a
thread of its caller's process."""

_CAPTURED: Final = 64 * 1024
"""Bytes of each stream that are kept by default."""
_LEAST_MEMORY: Final = 64 * 1024
"""Bytes that a call which does nothing can need in a task process: measured, with some to spare."""
_NOT_IN_A_THREAD: Final = {
    "num_processes": "Linux does not say which thread started a process",
    "grace_period": "a thread cannot be killed after it",
    "capture_output": "a thread shares its output with its process",
}


class LimitsArguments(TypedDict, total=False):
    """The arguments of `Limits`, for functions that pass them on."""

    memory: Amount | None
    cpu_time: Duration | None
    wall_time: Duration | None
    num_processes: int | None
    cores: int | None
    reserve: bool
    grace_period: Duration
    capture_output: bool | Amount
    isolation: Isolation
    context: str | BaseContext | None


@dataclass(frozen=True, repr=False)
class Limits:
    """What one call may use, with every process it starts. None, the default, is no limit.

    Args:
        memory: Resident memory beyond what its process had before the call, shared pages counted
            once. Bytes, `(2, "GB")` with pynisher's 1024-based units, or a string as Dask reads
            it, `"2 GiB"`. At least 64 KiB: no call can be sure to need less.
        cpu_time: CPU time of all its processes together, those that have exited included.
            Seconds (fractions count), `(5, "m")`, `"1h 30m"`, `"01:30:00"`, or a timedelta.
        wall_time: Time from its start, or its last [progress()][dask_limits.progress], to its
            end. Forms as for `cpu_time`.
        num_processes: Processes at one time, its own included: 1 lets it start none.
            Threads do not count.
        cores: Number of cores that the call reserves. None is one on a Dask worker, and none on
            this machine. This is a request and not a limit: the call can use more.
        reserve: Whether the call reserves its memory and cores, and waits until they are free, so
            that limits never sum up to more than there is.
        grace_period: Time between a warning and the end of the call, at a limit on time; 0, the
            default, is no warning. The warning is a SIGALRM for wall time and a SIGXCPU for CPU
            time, which the function may handle. Otherwise it raises a `WallTimeBreach` or a
            `CpuTimeBreach` in the function. If the function returns in time, so does the call.
        capture_output: Whether to capture what the call prints, with its child processes and code
            in C, in `Usage.stdout` and `Usage.stderr`. 64 KiB of each are kept, or the amount
            given here, such as `"1 MiB"`: the start and the end.
        isolation: `"clean"`: in a process in which no other call has run, or only short calls of
            the same function, which take some 20 to 250 ms together. `"warm"`: in a process that
            runs one call after another, for functions that keep something from call to call.
            `"fresh"`: in a new process for each call, made by pynisher. `"thread"`: in a thread of
            the caller's own process, which shares its memory, and is interrupted only between
            steps of Python code.
        context: How pynisher starts a fresh process: `"fork"` (the default), `"forkserver"`,
            `"spawn"`, or a context of `multiprocessing`.

    Raises:
        ValueError: if a limit is zero, negative, NaN or infinite, has an unknown unit, is less
            memory than any call needs, or does not go together with another argument.
        TypeError: if a value has the wrong type, or for a limit by another name.

    Example:
        >>> Limits(memory="2 GiB", wall_time=(5, "m"))
        Limits(memory=2147483648, wall_time=300.0)
        >>> bool(Limits())
        False
    """

    memory: int | None = None
    cpu_time: float | None = None
    wall_time: float | None = None
    num_processes: int | None = None
    cores: int | None = None
    reserve: bool = True
    grace_period: float = 0.0
    capture_output: int = 0
    isolation: Isolation = "clean"
    context: str | None = None

    def __init__(
        self,
        *,
        memory: Amount | None = None,
        cpu_time: Duration | None = None,
        wall_time: Duration | None = None,
        num_processes: int | None = None,
        cores: int | None = None,
        reserve: bool = True,
        grace_period: Duration = 0,
        capture_output: bool | Amount = False,
        isolation: Isolation = "clean",
        context: str | BaseContext | None = None,
        **unknown: Never,
    ) -> None:
        others: Mapping[str, object] = unknown
        for name, value in others.items():
            instead = instead_of(name, value, LimitsArguments.__annotations__, NOT_LIMITS)
            raise TypeError(f"There is no limit {name!r}: {instead}")
        put = object.__setattr__  # the dataclass is frozen
        put(self, "memory", None if memory is None else parse_memory_limit(memory, "memory"))
        put(self, "cpu_time", None if cpu_time is None else parse_seconds(cpu_time, "cpu_time"))
        put(self, "wall_time", None if wall_time is None else parse_seconds(wall_time, "wall_time"))
        put(self, "num_processes", _count(num_processes, "num_processes", "no limit"))
        put(self, "cores", _count(cores, "cores", "one core"))
        put(self, "reserve", _flag(reserve, "reserve"))
        put(self, "grace_period", _seconds_or_zero(grace_period))
        put(self, "capture_output", _bytes_to_keep(capture_output))
        put(self, "isolation", _one_of(get_args(Isolation), isolation, "isolation"))
        put(self, "context", _start_method(context))
        self._refuse_what_does_not_go_together()

    def _refuse_what_does_not_go_together(self) -> None:
        if self.context is not None and self.isolation != "fresh":
            raise ValueError(
                f"context={self.context!r} has no effect with isolation={self.isolation!r}, which"
                " starts no process for a call. Use isolation='fresh'."
            )
        if self.isolation == "thread":
            for name in self.as_dict().keys() & _NOT_IN_A_THREAD.keys():
                raise ValueError(
                    f"{name} is not supported with isolation='thread': {_NOT_IN_A_THREAD[name]}."
                    " Use isolation='clean'."
                )

    @property
    def reserves(self) -> bool:
        """Whether a call with these limits reserves something where it runs."""
        return self.reserve and (self.memory is not None or self.cores is not None)

    def as_dict(self) -> dict[str, Any]:
        """The values that are not the default, by name: `Limits(**limits.as_dict()) == limits`.

        Example:
            >>> Limits(memory="1 MiB").as_dict()
            {'memory': 1048576}
        """
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return {name: value for name, value, default in values if value != default}

    def within(self, other: Limits) -> Limits:
        """Both limits together: of each kind the stricter one.

        `cores`, `reserve`, `capture_output` and `isolation`, which are not limits, are those of
        `self`, if it sets them.

        Raises:
            ValueError: if the isolation of one does not go together with a limit of the other.

        Example:
            >>> Limits(memory=100_000, wall_time=5).within(Limits(wall_time=2))
            Limits(memory=100000, wall_time=2.0)
        """
        ours, theirs = self.as_dict(), other.as_dict()
        both = ours.keys() & theirs.keys() & _ORDERED
        ours |= {name: min(ours[name], theirs[name]) for name in both}
        return Limits(**ours).with_defaults(other)

    def with_defaults(self, defaults: Limits) -> Limits:
        """These limits, and those of `defaults` that are not among them.

        Raises:
            ValueError: if the isolation of one does not go together with a limit of the other.

        Example:
            >>> Limits(memory=100_000).with_defaults(Limits(memory=200_000, wall_time=2))
            Limits(memory=100000, wall_time=2.0)
        """
        ours, theirs = self.as_dict(), defaults.as_dict()
        if "isolation" in ours:
            theirs.pop("context", None)  # it was for theirs
        return Limits(**theirs | ours)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"Limits({given})"

    def _repr_html_(self) -> str:
        from dask_limits.html.calls import limits_view  # no task process needs it

        return limits_view(self)

    def __bool__(self) -> bool:
        """Whether any value differs from its default."""
        return self != _NO_LIMITS


def parse_memory_limit(value: Amount, name: str) -> int:
    """Bytes of a memory limit, which is called `name`.

    Raises:
        ValueError: as `parse_bytes`, and for less than a call that does nothing can need.
        TypeError: as `parse_bytes`.
    """
    memory = parse_bytes(value, name)
    if memory >= _LEAST_MEMORY:
        return memory
    text = f"{name}={value!r} is {memory} bytes, but a call that does nothing can need"
    text += f" {format_bytes(_LEAST_MEMORY)}"
    if not isinstance(value, tuple | list) and str(value).strip().isdecimal():  # without a unit
        text += f'. Did you mean "{memory} {"GiB" if memory < 32 else "MiB"}"?'
    raise ValueError(text)


_AS_OUTCOME: Final = (
    "limit(function, ...).run(...) returns an Outcome with the value or the exception, and a"
    " Scheduler tells of both by events"
)
NOT_LIMITS: Final = {
    "raises": _AS_OUTCOME,
    "wrap_errors": _AS_OUTCOME,
    "warnings": "without the means to enforce a limit there is an error, and `dask-limits check`"
    " says what this machine has",
    "terminate_child_processes": "all that a call has started ends with it",
    "forkserver_preload": "the names of modules go to preload=[...] of an executor, or to"
    " dask_limits.preload()",
    "logger": 'the logger "dask_limits" tells of each breach',
    "retries": "use plugins=Retry(max_retries={value!r}) on a task of a Scheduler",
    "max_retries": "use plugins=Retry(max_retries={value!r}) on a task of a Scheduler",
}
"""What pynisher and others have beside limits, and what does the same here."""
_ORDERED: Final = {"memory", "cpu_time", "wall_time", "num_processes", "grace_period"}


def _count(value: int | None, name: str, none: str) -> int | None:
    return None if value is None else whole_number(value, name, none=none)


def _flag(value: bool, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}. Use True or False.")
    return value


def _seconds_or_zero(value: Duration | None) -> float:
    return 0.0 if value in (None, 0, timedelta()) else parse_seconds(value, "grace_period")


def _bytes_to_keep(value: bool | Amount | None) -> int:
    if value is None or value == 0:
        return 0
    return _CAPTURED if value is True else parse_bytes(value, "capture_output")


def _start_method(value: str | BaseContext | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, BaseContext):
        return value.get_start_method()
    known = multiprocessing.get_all_start_methods()
    return _one_of(known, value, "context", ", or a context of multiprocessing")


def _one_of(known: Sequence[str], value: str, name: str, or_else: str = "") -> str:
    if value not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"{name}={value!r} is unknown. Use one of {names}{or_else}.")
    return value


_NO_LIMITS = Limits()
