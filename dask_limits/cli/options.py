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


def _option(metavar: str, parse: Callable[[str, str], float | None], forms: str) -> dict[str, Any]:
    """What `click.option` needs for an amount, which is None if the option is not given."""

    def read(_: click.Context, option: click.Parameter, value: str | None) -> float | None:
        if value is None:
            return None
        try:
            return parse(value, option.opts[0])
        except ValueError:
            raise BadInput(f"{option.opts[0]} {value!r} is not {forms}.") from None

    return {"metavar": metavar, "callback": read}


def _or_none(parse: Callable[[str, str], float]) -> Callable[[str, str], float | None]:
    return lambda text, name: None if text.strip().lower() == "none" else parse(text, name)


def _count(text: str, _: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _memory(text: str, name: str) -> int:
    from dask_limits import Limits

    amount = parse_bytes(text, name)
    try:
        Limits(memory=amount if text.strip().isdecimal() else text)
    except ValueError as error:  # too small for any call
        raise BadInput(end_sentence(str(error).replace("memory", name, 1))) from None
    return amount


def end_sentence(text: str) -> str:
    """A text with one full stop at its end, unless it ends in another way."""
    return text if text.endswith(("?", '"')) else f"{text.rstrip('.')}."


COUNT: Final = _option("N", _count, "a whole number of 1 or more")
MEMORY: Final = _option(
    "MEMORY", _or_none(_memory), 'an amount of memory above zero, such as 300MiB or "2 GB"'
)
TIME: Final = _option(
    "TIME", _or_none(parse_seconds), 'a time above zero, such as 0.5s, 5m or "1h 30m"'
)


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
