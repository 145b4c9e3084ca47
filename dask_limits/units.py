"""Converts what people write ("2 GiB", (5, "m"), 0.5) to bytes and seconds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from numbers import Integral, Real
from typing import Any, Final

__all__ = ["Amount", "Duration", "format_bytes", "format_seconds", "parse_bytes", "parse_seconds"]

Amount = float | tuple[float, str] | str
"""A number, a `(number, unit)`, or a string such as `"2 GiB"` or `"1h 30m"`."""
Duration = Amount | timedelta
"""An amount of time; a string may also be `"01:30:00"` or `"1-12:00:00"`, with days."""

_NUMBER: Final = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)", re.ASCII)
_PART: Final = re.compile(rf"\s*({_NUMBER})\s*([a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class _Quantity:
    """How people write an amount of memory or time."""

    in_tuples: dict[str, float]
    in_strings: dict[str, float]
    can_be_sum: bool
    forms: str

    def parse(self, value: Duration, name: str) -> float:
        """The amount in bytes or seconds, more than zero and finite."""
        try:
            amount = self._of_text(value) if isinstance(value, str) else self._of_number(value)
            if not 0 < amount < math.inf:
                hint = " (None means no limit)" if amount == 0 else ""
                raise ValueError(f"must be more than zero and finite{hint}")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}={value!r} {error}. Use {self.forms}.") from None
        return amount

    def _of_number(self, value: object) -> float:
        """A number, or a (number, unit) pair."""
        number: Any = value
        unit = None
        if isinstance(value, tuple | list):
            if len(value) != 2 or not isinstance(value[1], str):
                raise TypeError("is not a (number, unit) pair")
            number, unit = value
        if isinstance(number, bool) or not isinstance(number, Real):
            what = "is" if number is value else "has a number"
            raise TypeError(f"{what} of type {type(number).__name__}")
        factor = 1.0 if unit is None else _factor(unit, self.in_tuples)
        try:
            return float(number) * factor
        except OverflowError:  # an integer of hundreds of digits
            return math.inf

    def _of_text(self, text: str) -> float:
        """A number with a unit, or the sum of several: "1h 30m" is 5400."""
        alone = text.strip().lower()
        if alone and alone in self.in_strings:
            return self.in_strings[alone]  # Dask reads "GiB" as "1 GiB"
        amounts: list[float] = []
        at = 0
        while part := _PART.match(text, at):
            amounts.append(float(part[1]) * _factor(part[2], self.in_strings))
            at = part.end()
        if at < len(text) or not amounts or (len(amounts) > 1 and not self.can_be_sum):
            raise ValueError("is not a positive number with a unit")
        return sum(amounts)


class _Time(_Quantity):
    def _of_number(self, value: object) -> float:
        if isinstance(value, timedelta):
            return value.total_seconds()
        return super()._of_number(value)

    def _of_text(self, text: str) -> float:
        """As above, or "hours:minutes:seconds", after "days-"."""
        if clock := _CLOCK.fullmatch(text.strip()):
            days, hours, minutes, seconds = (float(part or 0) for part in clock.groups())
            return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        return super()._of_text(text)


def _factor(unit: str, units: dict[str, float]) -> float:
    try:
        return units[unit.strip().lower()]
    except KeyError:
        raise ValueError(f"has an unknown unit, {unit!r}") from None


_MEMORY: Final = _Quantity(
    {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40},
    {"": 1, "b": 1}
    | {p + s: 1000**n for n, p in enumerate("kmgtp", 1) for s in ("", "b")}
    | {p + s: 1024**n for n, p in enumerate("kmgtp", 1) for s in ("i", "ib")},
    can_be_sum=False,
    forms='2_000_000_000 (bytes), (2, "GB") (1024-based: B, KB, MB, GB, TB), "2 GiB"',
)
_SECONDS: Final = (
    {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    | {"nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3}
    | {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
    | {"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3}
    | {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800}
)
_TIME: Final = _Time(
    _SECONDS,
    _SECONDS | {"": 1},
    can_be_sum=True,
    forms='90 or 0.5 (seconds), (5, "m") (s, m, h, ...), "1h 30m", "500 ms", "01:30:00",'
    ' "1-12:00:00" (days-hours:minutes:seconds), or a timedelta',
)


def parse_bytes(value: Amount, name: str = "memory") -> int:
    """Bytes of an amount of memory.

    A tuple's units are 1024-based, as pynisher's are; a string is read as Dask reads it
    ("2 GB" is 2 * 1000**3 bytes, "2 GiB" is 2 * 1024**3).

    Args:
        value: A positive number of bytes, a `(number, unit)`, or a string with a unit.
        name: What the error calls it.

    Returns:
        A whole number of bytes, 1 or more.

    Raises:
        ValueError: for zero, a negative number, NaN, infinity, or an unknown unit.
        TypeError: for anything that is not one of the forms.

    Example:
        >>> parse_bytes((2, "GB")), parse_bytes("2 GiB"), parse_bytes("2 GB")
        (2147483648, 2147483648, 2000000000)
    """
    whole = round(_MEMORY.parse(value, name))
    if whole < 1:
        raise ValueError(f"{name}={value!r} is less than one byte. Use {_MEMORY.forms}.")
    return whole


def parse_seconds(value: Duration, name: str = "time") -> float:
    """Seconds of a span of time.

    Args:
        value: A positive number of seconds (fractions count), a `(number, unit)`, a string of one
            or more numbers with units or of the form "days-hours:minutes:seconds", with or without
            days, or a `datetime.timedelta`.
        name: What the error calls it.

    Returns:
        Seconds, more than 0.

    Raises:
        ValueError: for zero, a negative number, NaN, infinity, or an unknown unit.
        TypeError: for anything that is not one of the forms.

    Example:
        >>> parse_seconds("1h 30m"), parse_seconds((5, "m")), parse_seconds("500 ms")
        (5400.0, 300.0, 0.5)
        >>> parse_seconds("00:05:00"), parse_seconds("1-12:00:00")
        (300.0, 129600.0)
    """
    return float(_TIME.parse(value, name))


def parse_delay(value: Duration) -> float:
    """Seconds of a delay, as `parse_seconds` does, but it may be 0."""
    is_zero = value in (0, timedelta()) and value is not False
    return 0.0 if is_zero else parse_seconds(value, "delay")


def whole_number(value: object, name: str, *, least: int = 1, none: str = "") -> int:
    """A whole number that a user has given, `least` or more; NumPy's whole numbers too.

    For the error, `none` says what None means there; it is empty where None is invalid.
    """
    wanted = f"must be a whole number, {least} or more" + (f", or None for {none}" if none else "")
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}, but {wanted}")
    if value < least:
        raise ValueError(f"{name}={value!r} {wanted}")
    return int(value)


def format_bytes(amount: int) -> str:
    """An amount of memory for people.

    Example:
        >>> format_bytes(2 * 1024**3), format_bytes(1000)
        ('2.0 GiB', '1000 B')
    """
    if amount < 1024:
        return f"{amount} B"
    power = min((amount.bit_length() - 1) // 10, 5)
    return f"{amount / 1024**power:.1f} {'KMGTP'[power - 1]}iB"


def format_seconds(amount: float) -> str:
    """A span of time for people.

    Example:
        >>> format_seconds(0.05), format_seconds(90)
        ('0.05 s', '90 s')
    """
    return f"{amount:.3g} s" if amount < 1000 else f"{amount:.0f} s"
