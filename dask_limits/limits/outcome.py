from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Usage:
    """What one call did use, with every process it started.

    Attributes:
        wall_time: Seconds from start to end.
        cpu_time: Seconds of CPU time, of all its processes together.
        peak_memory: Most bytes of resident memory that were seen at one time; 0 where the call
            ran in its caller's own process, whose memory is not its own. Pages that several
            processes of a call share are counted once where that decides on a breach, and for
            each of them otherwise.
        num_processes: Most processes that were seen at one time, its own included.
        exit_code: How its process ended, as `subprocess` says it (-9 is SIGKILL); None where
            the process lives on.
        stdout: What it printed, where that was asked for (`capture_output`); None otherwise.
            Of long output the start and the end, and in between how many bytes were left out.
        stderr: What it printed as errors, as `stdout`.
    """

    wall_time: float
    cpu_time: float
    peak_memory: int = 0
    num_processes: int = 1
    exit_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


@dataclass(frozen=True)
class ChildProcess:
    """A process that a call has started, and that had the largest share of what it went over.

    Attributes:
        pid: Its process id.
        command: Its command line, with control characters escaped, of 120 characters at most;
            empty for a fork of the function's own process.
        used: Bytes of memory, or seconds of CPU time; over a limit on processes, how many had the
            same command line.
    """

    pid: int
    command: str
    used: float


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """A finished call: its value or its exception, and what it used.

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
            BaseException: whatever the call ended with, if it did not return.
        """
        if self.exception is not None:
            raise self.exception
        value: Any = self.value
        return value  # type: ignore[no-any-return]
