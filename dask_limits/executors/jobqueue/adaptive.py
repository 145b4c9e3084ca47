"""The arguments `n_workers` and `adaptive`: how many workers a user asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from dask_limits.units import parse_seconds, whole_number


@dataclass(frozen=True)
class Adaptive:
    """Bounds on the number of workers, which follows the work."""

    minimum: int
    maximum: int
    keep_idle_s: float = 120.0
    """How long an idle worker is kept. A new one waits in the queue for a minute at best, so a
    shorter time loses more than it saves; an hour would be at the expense of other users."""
    target_duration_s: float = 5.0
    """The time in which the waiting work should be done if workers came at once: Dask's own
    default. A shorter time asks for workers that find nothing to do when they come."""


def parse_workers(n_workers: int | None, adaptive: object) -> tuple[int, Adaptive | None]:
    """How many workers to start with, and how to adapt the number; None to keep it.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if an argument has the wrong type.
    """
    if n_workers is not None:
        n_workers = whole_number(n_workers, "n_workers", none="one")
    if adaptive is None or adaptive is False:
        return n_workers or 1, None
    scaling = _parse_adaptive(adaptive, n_workers)
    first = max(scaling.minimum, 1) if n_workers is None or adaptive is True else n_workers
    if first > scaling.maximum:
        raise ValueError(
            f"n_workers={n_workers} is more than {scaling.maximum}, the maximum in adaptive="
        )
    return first, scaling


def _parse_adaptive(adaptive: object, n_workers: int | None) -> Adaptive:
    options = {
        "minimum": 0,
        "keep_idle": Adaptive.keep_idle_s,
        "target_duration": Adaptive.target_duration_s,
        **_as_options(adaptive, n_workers),
    }
    if options.keys() != {"minimum", "maximum", "keep_idle", "target_duration"}:
        raise ValueError(
            f"adaptive={adaptive!r} must have 'maximum', and may have 'minimum', 'keep_idle' and"
            " 'target_duration'"
        )
    maximum = whole_number(options["maximum"], "maximum")
    minimum = whole_number(options["minimum"], "minimum", least=0)
    if minimum > maximum:
        raise ValueError(f"minimum={minimum} must be at most maximum={maximum}")
    keep_idle_s = parse_seconds(options["keep_idle"], "keep_idle")
    target_duration_s = parse_seconds(options["target_duration"], "target_duration")
    return Adaptive(minimum, maximum, keep_idle_s, target_duration_s)


def _as_options(adaptive: object, n_workers: int | None) -> Mapping[str, Any]:
    """The dict that the short forms of `adaptive` stand for."""
    match adaptive:
        case True if n_workers is None:
            raise ValueError(
                "adaptive=True needs n_workers=, the maximum number of workers. Or use"
                " adaptive=20 or adaptive=(2, 20)."
            )
        case True:
            return {"maximum": n_workers}
        case Integral():
            return {"maximum": adaptive}
        case tuple((minimum, maximum)):
            return {"minimum": minimum, "maximum": maximum}
        case Mapping():
            return adaptive
    raise TypeError(
        f"adaptive={adaptive!r} is of type {type(adaptive).__name__}. Use the maximum number of"
        " workers (20), the minimum and the maximum ((2, 20)), or a dict of minimum, maximum,"
        " keep_idle, target_duration."
    )
