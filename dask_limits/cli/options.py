"""Parses and checks the options of the command line."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import click

from dask_limits.units import parse_bytes, parse_seconds


class BadInput(click.ClickException):
    """Invalid arguments; the message is one sentence."""

    exit_code = 2


def _amount(parse: Callable[[str, str], float], forms: str) -> Callable[..., float | None]:
    """A callback that parses an amount with a unit, or "none"."""

    def read(_: click.Context, option: click.Parameter, value: str | None) -> float | None:
        if value is None or value.strip().lower() == "none":
            return None
        try:
            return parse(value, option.opts[0])
        except ValueError:
            raise BadInput(f"{option.opts[0]} {value!r} is not {forms}.") from None

    return read


def _read_count(_: click.Context, option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise BadInput(f"{option.opts[0]} {value!r} is not a whole number of 1 or more.")
    return number


COUNT: Final[dict[str, Any]] = {"metavar": "N", "callback": _read_count}
MEMORY: Final[dict[str, Any]] = {
    "metavar": "MEMORY",
    "callback": _amount(parse_bytes, 'an amount of memory above zero, such as 300MiB or "2 GB"'),
}
TIME: Final[dict[str, Any]] = {
    "metavar": "TIME",
    "callback": _amount(parse_seconds, 'a time above zero, such as 0.5s, 5m or "1h 30m"'),
}
"""What `click.option` needs for numbers and amounts. They are None if the option is not given, and
amounts if it is "none"."""


def check_address(address: str) -> None:
    """Check that something listens there: Dask would retry for half a minute."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        where = parts.hostname or "", parts.port or 0
    except ValueError:
        where = "", 0
    if not all(where):
        raise BadInput(
            f"--scheduler-address {address!r} is not an address such as tcp://host:8786."
        )
    try:
        socket.create_connection(where, timeout=5).close()
    except OSError as error:
        why = error.strerror or "connecting took over 5 s"
        raise BadInput(f"No Dask scheduler answers at {address}: {why}.") from None
