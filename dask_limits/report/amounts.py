"""Amounts rounded up to two figures, as people write them."""

from __future__ import annotations

import math
from typing import Final

_BYTES: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SECONDS: Final = (("h", 3600.0), ("m", 60.0), ("s", 1.0))


def bytes_rounded_up(amount: float) -> str:
    """Bytes in the form that limits take.

    Example:
        >>> bytes_rounded_up(250 * 2**20 + 1), bytes_rounded_up(1.21 * 2**30)
        ('260 MiB', '1.3 GiB')
    """
    unit, size = next((u for u in _BYTES if amount >= u[1]), _BYTES[-1])
    return f"{_two_figures(amount / size)} {unit}"


def seconds_rounded_up(amount: float) -> str:
    """Seconds in the form that limits take: hours from two on, minutes likewise.

    Example:
        >>> seconds_rounded_up(0.123), seconds_rounded_up(119), seconds_rounded_up(121)
        ('0.13 s', '120 s', '2.1 m')
    """
    unit, size = next((u for u in _SECONDS if amount >= 2 * u[1]), _SECONDS[-1])
    return f"{_two_figures(amount / size)} {unit}"


def _two_figures(value: float) -> str:
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    rounded = math.ceil(value / step - 1e-9) * step
    return f"{rounded:.12g}"
