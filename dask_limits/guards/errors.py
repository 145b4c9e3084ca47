"""What guards raise.

Neither is a `TimeoutError` (an `OSError`) or a `MemoryError`: code inside a guard that handles
those of its own, say to try a connection again, would take a guard's interrupt for one of them.
"""

from __future__ import annotations


class GuardException(Exception):
    """A guard interrupted what ran inside it."""


class ExecutionTimeout(GuardException):
    """A time guard's timeout ran out.

    Attributes:
        timeout: Seconds that there were.
        elapsed: Seconds since the block was entered, or since progress was last reported.
    """

    def __init__(self, message: str = "", *, timeout: float = 0.0, elapsed: float = 0.0) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.elapsed = elapsed


class MemoryLimitExceeded(GuardException):
    """The process had more memory than a memory guard allows.

    Attributes:
        max_memory: The guard's limit in KiB.
        memory: Resident memory of the process in KiB; above what it had on entry, if the limit
            counts from there.
    """

    def __init__(self, message: str = "", *, max_memory: float = 0.0, memory: float = 0.0) -> None:
        super().__init__(message)
        self.max_memory = max_memory
        self.memory = memory
