"""The exceptions of guards.

None derives from `TimeoutError` (an `OSError`) or `MemoryError`: guarded code that handles its own,
for instance to retry a connection, would also catch a guard's interrupt.
"""

from __future__ import annotations


class GuardException(Exception):
    """A guard interrupted what ran inside it."""


class ExecutionTimeout(GuardException):
    """A time guard's timeout ran out.

    Attributes:
        timeout: The timeout in seconds.
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
        memory: Resident memory of the process in KiB; less what it had on entry, if the limit
            counts from there.
    """

    def __init__(self, message: str = "", *, max_memory: float = 0.0, memory: float = 0.0) -> None:
        super().__init__(message)
        self.max_memory = max_memory
        self.memory = memory
