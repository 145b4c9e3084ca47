from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def signature_of(function: Callable[..., object]) -> str:
    """Return `name(n: int) -> int` for a callable; `name(...)` if it has no signature."""
    name = getattr(function, "__name__", None) or getattr(function, "name", None)
    if not isinstance(name, str):
        name = type(function).__name__
    try:
        found = inspect.signature(function)
        parameters = [p.replace(annotation=_bare(p.annotation)) for p in found.parameters.values()]
        text = str(
            found.replace(parameters=parameters, return_annotation=_bare(found.return_annotation))
        )
    except Exception:  # some builtins have none, and an object may raise anything
        text = "(...)"
    return name + text


class _Bare:
    """An annotation that was written as a string, shown without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation
