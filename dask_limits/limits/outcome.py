from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Usage:
    """What one call used, with every process it started.

    Attributes:
        wall_time: Seconds from start to end.
        cpu_time: Seconds of CPU time, of all its processes together.
        peak_memory: Most bytes of resident memory at one time, beyond what its process had before
            the call; 0 if the call ran in its caller's own process. Pages that several processes
            of a call share are counted once.
        num_processes: Most processes seen at one time, its own included.
        exit_code: How its process ended, as in `subprocess` (-9 is SIGKILL); None if the process
            lives on.
        stdout: What it printed, if that was captured (`capture_output`); None otherwise. Long
            output is cut in the middle, with a note of how many bytes were left out.
        stderr: What it printed to standard error, as `stdout`.
        started: When it began, in seconds since 1970 by the clock of its machine, to some ms; None
            if it did not.
    """

    wall_time: float
    cpu_time: float
    peak_memory: int = 0
    num_processes: int = 1
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    started: float | None = None

    def _repr_html_(self) -> str:
        from dask_limits.html.calls import usage_view  # no task process needs it

        return usage_view(self)


@dataclass(frozen=True)
class ChildProcess:
    """A process started by a call, with the largest share of what the call went over.

    Attributes:
        pid: Its process id.
        command: Its command line, with control characters escaped, of 120 characters at most;
            empty for a fork of the function's own process.
        used: Bytes of memory, or seconds of CPU time. For a limit on processes: the number of
            processes with the same command line.
    """

    pid: int
    command: str
    used: float


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """A finished call: its value or its exception, and its usage.

    Example:
        >>> Outcome(value=42, usage=Usage(wall_time=0.1, cpu_time=0.1)).result()
        42
    """

    usage: Usage
    value: R | None = None
    exception: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether the call returned."""
        return self.exception is None

    def result(self) -> R:
        """What the call returned.

        Raises:
            BaseException: the exception of the call, if it did not return.
        """
        if self.exception is not None:
            try:
                raise self.exception
            finally:
                del self  # else it would be in its exception's traceback: a circle
        return self.value  # type: ignore[return-value]

    def _repr_html_(self) -> str:
        from dask_limits.html.calls import outcome_view

        return outcome_view(self)
