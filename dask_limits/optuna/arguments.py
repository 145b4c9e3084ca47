"""The arguments of `optimize` that no other function has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias

OnBreach: TypeAlias = Literal["fail", "prune"] | float | Sequence[float]


def caught_kinds(catch: Any) -> tuple[type[Exception], ...]:
    """The exceptions of an objective after which a study goes on."""
    kinds = tuple(catch) if isinstance(catch, Iterable) else (catch,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(
                f"catch={catch!r} contains {kind!r}, which is not a class of exceptions. Use one,"
                " or several: catch=(ValueError, OSError)."
            )
    return kinds


def on_breach_value(value: Any, n_objectives: int) -> str | tuple[float, ...]:
    """What becomes of a trial that goes over a limit: "fail", "prune", or its values."""
    if value in ("fail", "prune"):
        return str(value)
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    if isinstance(value, str) or not all(map(_is_value, values)):
        raise ValueError(
            f"on_breach={value!r} must be 'fail', 'prune', or the value that the trial gets"
        )
    if len(values) != n_objectives:
        raise ValueError(
            f"on_breach={value!r} must have a value for each objective of the study: it has"
            f" {n_objectives}"
        )
    return tuple(map(float, values))


def _is_value(value: Any) -> bool:
    return isinstance(value, Real) and not math.isnan(value)
