"""How a command has ended, as it is told and written."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from dask_limits import Usage, exceptions
from dask_limits.batch.item import Item

_ENDINGS: Final[Mapping[type[BaseException], str]] = {
    exceptions.WallTimeBreach: "wall_time",
    exceptions.CpuTimeBreach: "cpu_time",
    exceptions.MemoryBreach: "memory",
    exceptions.ProcessBreach: "num_processes",
    exceptions.ExitError: "exited",
    exceptions.CrashError: "crashed",
    exceptions.LimitRefusedError: "refused",
    exceptions.WorkerLostError: "lost",
    exceptions.GuardianLostError: "lost",
    exceptions.ClusterLostError: "lost",
}
_OK: Final = "returned"
_HOST: Final = socket.gethostname()


class Ended(NamedTuple):
    """A command that has ended.

    Attributes:
        item: The command.
        ending: "returned", the limit that it went over, "exited", "crashed", "refused", "lost", or
            "failed" if it could not be started.
        exit_code: Of its shell, or the signal as in `subprocess`; None after a breach.
        cause: The first line of the error; empty if it has succeeded.
        usage: What it took; None if it never ran.
        host: Where it ran.
        job: The batch job in which it ran; empty if in none.
        tries: How many times it was started.
    """

    item: Item
    ending: str
    exit_code: int | None
    cause: str
    usage: Usage | None
    host: str
    job: str
    tries: int

    @classmethod
    def of(cls, item: Item, future: Any, hosts: Mapping[str, str]) -> Ended:
        """How the command of a future has ended."""
        error: BaseException | None = future.exception()
        return cls(
            item,
            ending_of(error),
            _exit_code(error),
            _cause(error),
            future.usage,
            hosts.get(future.worker, future.worker) if future.worker else _HOST,
            future.job,
            future.attempts,
        )

    @property
    def has_failed(self) -> bool:
        """Whether it did anything but end with exit code 0."""
        return self.ending != _OK


def ending_of(error: BaseException | None) -> str:
    """How a command with this error has ended, in a word."""
    if error is None:
        return _OK
    found = (_ENDINGS[kind] for kind in type(error).__mro__ if kind in _ENDINGS)
    return next(found, "lost" if type(error).__name__ == "KilledWorker" else "failed")


def _cause(error: BaseException | None) -> str:
    """The first line of an error, without what was called: a command is known by its line."""
    if error is None:
        return ""
    text = str(error)
    if isinstance(error, exceptions.CommandError):
        text = text.removeprefix(f"{error.command}: ")
    elif isinstance(error, exceptions.CallError):
        text = text.removeprefix(f"{error.call}() ")
    return text.partition("\n")[0]


def _exit_code(error: BaseException | None) -> int | None:
    if error is None:
        return 0
    if isinstance(error, exceptions.ExitError):
        return error.exit_code
    if isinstance(error, exceptions.CrashError):
        return -error.signal
    return None
