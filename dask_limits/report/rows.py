"""A row for each call: as it is kept, in some hundred bytes, and as it is read."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from itertools import count
from math import isfinite, isnan, nan
from typing import Any, Final, NamedTuple

from dask_limits.limits.endings import Ending
from dask_limits.printable import printable

_TEXT_LENGTH: Final = 300  # characters: enough for the message of most exceptions
_LARGEST: Final = {"q": 2**63 - 1, "I": 2**32 - 1, "H": 2**16 - 1, "B": 2**8 - 1}
_OTHER: Final = "..."
_NO_NUMBER: Final = 2**63 - 1


class Row(NamedTuple):
    """A call that has ended. None is what is not known, or a limit that it did not have.

    Attributes:
        task: The name of its function.
        arguments: In short, "10, depth=3", in some 120 characters at most. They are kept of calls
            that did not return, and of those that did while there is room; else this is "...".
        key: What the future has as `key`: on Dask that of its task, else a number.
        ending: "returned", "raised", "breach", "crashed", "exited", "refused", "lost", "failed" or
            "cancelled".
        cause: Of a breach or a refusal the limit, "memory"; else the signal, the exit code, what is
            known of a lost worker, or the type and the text of the exception.
        where: The innermost line of the user's own code, else of a library's, when it raised or
            was ended: "fit.py:12 in fit", in a notebook "Cell In[3]:2 in fit".
        wall_time: Seconds, as the next one.
        cpu_time: Of all its processes together.
        peak_memory: Bytes; 0 if it ran in its caller's own process.
        num_processes: The most that it had at a time.
        memory_limit: Bytes.
        wall_time_limit: Seconds, as the next one.
        cpu_time_limit: As it says.
        num_processes_limit: As it says.
        cores: That it reserved, if it asked for a number.
        worker: On Dask, the name of the worker that ran it; else empty.
        job: The batch job of that worker; empty if it is in none.
        submitted: Seconds since 1970, as the next two.
        started: By the clock of the machine that ran it.
        ended: By that clock, or when the driver knew if it did not run.
        attempts: How many times it was started.
    """

    task: str
    arguments: str
    key: str
    ending: str
    cause: str
    where: str
    wall_time: float | None
    cpu_time: float | None
    peak_memory: int | None
    num_processes: int | None
    memory_limit: int | None
    wall_time_limit: float | None
    cpu_time_limit: float | None
    num_processes_limit: int | None
    cores: int | None
    worker: str
    job: str
    submitted: float | None
    started: float | None
    ended: float
    attempts: int


class Packed(NamedTuple):
    """A row as it is kept: numbers in place of texts, 0 and NaN in place of None."""

    submitted: float
    started: float
    ended: float
    wall_time: float
    cpu_time: float
    wall_time_limit: float
    cpu_time_limit: float
    peak_memory: int
    memory_limit: int
    number: int  # the end of the key, if it is one
    key: int  # the rest of it; this and the next ones are numbers of texts
    task: int
    arguments: int
    cause: int
    where: int
    worker: int
    job: int
    num_processes: int
    num_processes_limit: int
    cores: int
    attempts: int
    ending: int


_CODES: Final = "dddddddqqqIIIIIIIIIHHB"
ROW: Final = struct.Struct(f"={_CODES}")


def pack(row: tuple[Any, ...]) -> bytes:
    """Pack the fields of `Packed`. A number that is too large for its place is cut."""
    try:
        return ROW.pack(*row)
    except struct.error:
        fit = [
            max(0, min(field, _LARGEST[code])) if code in _LARGEST else field
            for code, field in zip(_CODES, row, strict=True)
        ]
        return ROW.pack(*fit)


class Texts:
    """Texts by numbers. The empty one is 0.

    Any thread can add some: whoever is first with a text has its number.

    Args:
        most: How many different ones there are, and at most as many again of what to say instead.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._new = count(2)
        self._numbers = {"": 0, _OTHER: 1}
        self.by_number = {0: "", 1: _OTHER}

    def arguments(self, text: Callable[[], str], has_returned: bool) -> int:
        """The number of the arguments of a call, which are made if there is room for them.

        They may take half of the room, and those of calls that have not returned three quarters of
        it: causes are to have the rest.
        """
        if len(self._numbers) >= self._most * (0.5 if has_returned else 0.75):
            return 1
        return self.number(text())

    def number(self, text: str, instead: str = "") -> int:
        """The number of a text; of what to say instead if there are too many."""
        if (known := self._numbers.get(text)) is not None:
            return known
        if len(text) > _TEXT_LENGTH:
            return self.number(text[:_TEXT_LENGTH], instead)
        if len(self._numbers) >= self._most:
            if instead:
                return self.number(instead)
            if len(self._numbers) >= 2 * self._most:
                return 1
        number = self._numbers.setdefault(text, next(self._new))
        self.by_number[number] = printable(text)
        return number


def split_key(key: str) -> tuple[str, int]:
    """A key without the number at its end, by which the keys of a run differ, and that number.

    Example:
        >>> split_key("fit-0f3c-17"), split_key("17")
        (('fit-0f3c', 17), ('', 17))
        >>> joined_key(*split_key("fit-0f3c-17")), joined_key(*split_key("fit-007"))
        ('fit-0f3c-17', 'fit-007')
    """
    head, dash, tail = key.rpartition("-")
    is_number = tail.isdecimal() and tail.isascii() and len(tail) < 19
    if is_number and bool(head) == bool(dash) and (tail[0] != "0" or tail == "0"):
        return head, int(tail)
    return key, _NO_NUMBER


def joined_key(head: str, number: int) -> str:
    """The key that was split so."""
    if number == _NO_NUMBER:
        return head
    return f"{head}-{number}" if head else str(number)


def unpacked(packed: tuple[Any, ...], texts: Mapping[int, str]) -> Row:
    """A row as it is read."""
    row = Packed._make(packed)
    ran = not isnan(row.wall_time)
    return Row(
        texts[row.task],
        texts[row.arguments],
        joined_key(texts[row.key], row.number),
        Ending(row.ending).name.lower(),
        texts[row.cause],
        texts[row.where],
        row.wall_time if ran else None,
        None if isnan(row.cpu_time) else row.cpu_time,
        None if isnan(row.cpu_time) else row.peak_memory,
        row.num_processes or None,
        row.memory_limit or None,
        row.wall_time_limit or None,
        row.cpu_time_limit or None,
        row.num_processes_limit or None,
        row.cores or None,
        texts[row.worker],
        texts[row.job],
        None if isnan(row.submitted) else row.submitted,
        None if isnan(row.started) else row.started,
        row.ended,
        row.attempts,
    )


_DAY_S: Final = 24 * 3600


def sensible(started: float | None, wall_time: float, now: float) -> tuple[float, float, float]:
    """Start, end and length of a call. They come from where it ran, where it can change them."""
    if started is None:
        return nan, now, nan
    if not (isfinite(wall_time) and 0 <= wall_time <= now):
        wall_time = 0.0
    if not 0 < started < now + _DAY_S:
        started = now - wall_time
    return started, started + wall_time, wall_time
