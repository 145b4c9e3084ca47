"""What runs in a call: the objective, with a trial that asks the driver."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from dask_limits.channels.asking import Asker
from dask_limits.channels.local_socket import Address
from dask_limits.limits import name_of
from dask_limits.limits.owner.use import function_key
from dask_limits.printable import printable


class LimitedObjective:
    """An objective, to be called with what leads to its trial instead of the trial."""

    def __init__(self, objective: Callable[..., Any]) -> None:
        self._objective = objective

    @property
    def __name__(self) -> str:
        return name_of(self._objective)

    @property
    def function_key(self) -> Hashable:
        """What it has in common with other calls of the same objective."""
        return function_key(self._objective)

    def __call__(self, address: Address, trial: str) -> Any:
        """Run the objective. This is an attempt of its own, also if another one was lost."""
        from dask_limits.optuna.limited_trial import LimitedTrial  # with Optuna

        with Asker(address, {"trial": trial, "attempt": secrets.token_hex(8)}) as asker:
            return _plain(self._objective(LimitedTrial(asker)))


def _plain(value: Any) -> Any:
    """The values of an objective as numbers of Python, so that its libraries stay where it runs.

    What is no number stays what it is for Optuna: a failure that shows it.
    """
    if value is None or isinstance(value, str):
        return value
    return [_number(v) for v in value] if isinstance(value, Sequence) else _number(value)


def _number(value: Any) -> Any:
    try:
        return float(value)
    except Exception:
        return NoNumber(printable(repr(value)[:200]))


class NoNumber:
    """Stands for what an objective has returned and is no number."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown
