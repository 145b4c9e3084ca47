"""From what people write ("2 GiB", (5, "m"), 0.5) to bytes and seconds."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import Any, Final

__all__ = ["Amount", "format_bytes", "format_seconds", "parse_bytes", "parse_seconds"]

Amount = float | tuple[float, str] | str
"""A number, a `(number, unit)`, or a string such as `"2 GiB"` or `"1h 30m"`."""

_BYTES_IN_TUPLES: Final = {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
_BYTES_IN_STRINGS: Final = (
    {"": 1, "b": 1}
    | {p + s: 1000**n for n, p in enumerate("kmgtp", 1) for s in ("", "b")}
    | {p + s: 1024**n for n, p in enumerate("kmgtp", 1) for s in ("i", "ib")}
)
_SECONDS: Final = (
    {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    | {"nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3}
    | {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
    | {"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3}
    | {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800}
)

_NUMBER: Final = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_PART: Final = re.compile(rf"\s*({_NUMBER})\s*([a-z]*)\s*", re.IGNORECASE)

BYTE_FORMS: Final = '2_000_000_000 (bytes), (2, "GB") (1024-based: B, KB, MB, GB, TB), "2 GiB"'
SECOND_FORMS: Final = '90 or 0.5 (seconds), (5, "m") (s, m, h, ...), "1h 30m", "500 ms"'


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
    if isinstance(value, str):
        parts = _split(value, _BYTES_IN_STRINGS, name, BYTE_FORMS)
        if len(parts) != 1:
            raise ValueError(f"{name}={value!r} is not an amount of memory. Use {BYTE_FORMS}.")
        amount = parts[0]
    else:
        amount = _number(value, _BYTES_IN_TUPLES, name, BYTE_FORMS)
    whole = round(_positive(amount, value, name, BYTE_FORMS))
    if whole < 1:
        raise ValueError(f"{name}={value!r} is less than one byte. Use {BYTE_FORMS}.")
    return whole


def parse_seconds(value: Amount, name: str = "time") -> float:
    """Seconds of a span of time.

    Args:
        value: A positive number of seconds (fractions count), a `(number, unit)`, or a
            string of one or more numbers with units.
        name: What the error calls it.

    Returns:
        Seconds, more than 0.

    Raises:
        ValueError: for zero, a negative number, NaN, infinity, or an unknown unit.
        TypeError: for anything that is not one of the forms.

    Example:
        >>> parse_seconds("1h 30m"), parse_seconds((5, "m")), parse_seconds("500 ms")
        (5400.0, 300.0, 0.5)
    """
    if isinstance(value, str):
        amount = sum(_split(value, _SECONDS | {"": 1}, name, SECOND_FORMS))
    else:
        amount = _number(value, _SECONDS, name, SECOND_FORMS)
    return float(_positive(amount, value, name, SECOND_FORMS))


def _number(
    value: object, units: dict[str, float] | dict[str, int], name: str, forms: str
) -> float:
    """A plain number, or a (number, unit) pair, in base units."""
    number: Any = value
    unit = None
    if isinstance(value, tuple | list):
        if len(value) != 2 or not isinstance(value[1], str):
            raise TypeError(f"{name}={value!r} is not a (number, unit) pair. Use {forms}.")
        number, unit = value
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name}={value!r} is a {type(number).__name__}. Use {forms}.")
    factor = 1 if unit is None else _factor(unit, units, value, name, forms)
    try:
        return float(number) * factor
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _split(
    text: str, units: dict[str, float] | dict[str, int], name: str, forms: str
) -> list[float]:
    """Each number of a text times its unit: "1h 30m" is [3600, 1800]."""
    amounts: list[float] = []
    at = 0
    while part := _PART.match(text, at):
        amounts.append(float(part[1]) * _factor(part[2], units, text, name, forms))
        at = part.end()
    if at == 0 and text.strip().lower() in units and text.strip():
        return [units[text.strip().lower()]]  # Dask reads "GiB" as "1 GiB"
    if at < len(text) or not amounts:
        raise ValueError(f"{name}={text!r} is not a positive number with a unit. Use {forms}.")
    return amounts


def _factor(
    unit: str, units: dict[str, float] | dict[str, int], value: object, name: str, forms: str
) -> float:
    try:
        return units[unit.strip().lower()]
    except KeyError:
        raise ValueError(f"{name}={value!r} has an unknown unit, {unit!r}. Use {forms}.") from None


def _positive(amount: float, value: object, name: str, forms: str) -> float:
    if math.isnan(amount) or math.isinf(amount) or amount <= 0:
        raise ValueError(
            f"{name}={value!r} must be more than zero and finite (None means no limit)."
            f" Use {forms}."
        )
    return amount


def whole_number(value: object, name: str, *, least: int = 1, none: str = "") -> int:
    """A number of things that a user has given, checked; NumPy's whole numbers too.

    Args:
        value: What the user gave.
        name: What the user calls it.
        least: The smallest that it can be.
        none: What None means there, for the error; empty where None is refused as well.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is less.

    Example:
        >>> whole_number(3, "max_workers")
        3
        >>> whole_number(0, "max_workers", none="one for each CPU")
        Traceback (most recent call last):
        ValueError: max_workers=0 must be a whole number, 1 or more, or None for one for each CPU
    """
    wanted = f"must be a whole number, {least} or more" + (f", or None for {none}" if none else "")
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}, but {wanted}")
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
