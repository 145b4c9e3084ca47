"""A call of an estimator's method, as it would run in the caller's thread.

The task process imports this.
"""

from __future__ import annotations

import contextlib
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import sklearn

from dask_limits.dask.compat import joblib as compat
from dask_limits.limits import Limits, Outcome

_WARNED: Final = "_dask_limits_warned"
"""The attribute of an exception that has the warnings before it."""


class Warned(NamedTuple):
    """A warning, and where it was raised."""

    message: Warning | str
    category: type[Warning]
    filename: str
    lineno: int


class Done(NamedTuple):
    """What a call leaves: its estimator, as it is then, what the method returned, and warnings."""

    estimator: Any
    value: Any
    warned: tuple[Warned, ...]

    @classmethod
    def of(cls, outcome: Outcome[Done]) -> Done:
        """What a call has left, after its warnings were shown.

        Raises:
            BaseException: what the method raised.
        """
        if (error := outcome.exception) is not None:
            _show(getattr(error, "__dict__", {}).pop(_WARNED, ()))
        done = outcome.result()
        _show(done.warned)
        return done


def runs_elsewhere(limits: Limits) -> bool:
    """Whether a call with these limits runs in another process."""
    return bool(limits) and limits.isolation != "thread"


class MethodCall:
    """Calls a method of its first argument.

    The caller's configuration of scikit-learn and of joblib holds in the call. If it runs in
    another process, so do the caller's filters of warnings, and its warnings come back.
    """

    def __init__(self, estimator: str, method: str, limits: Limits) -> None:
        self.__name__ = f"{estimator}.{method}"
        self.function_key = type(self).__name__, self.__name__  # those of one kind share a process
        self._method = method
        self._configuration = sklearn.get_config()
        self._joblibs = compat.setting_here() if limits else {}
        self._filters = list(warnings.filters) if runs_elsewhere(limits) else None

    def __call__(self, estimator: Any, /, *args: Any, **kwargs: Any) -> Done:
        """Call it."""
        with (
            sklearn.config_context(**self._configuration),
            compat.with_setting(self._joblibs),
            self._catching_warnings() as caught,
        ):
            try:
                value = getattr(estimator, self._method)(*args, **kwargs)
            except BaseException as error:
                with contextlib.suppress(AttributeError, TypeError):  # it takes no attribute
                    setattr(error, _WARNED, _packed(caught))
                raise
        if value is estimator:
            value = None  # it need not be pickled, and nobody asks for it
        return Done(estimator, value, _packed(caught))

    @contextlib.contextmanager
    def _catching_warnings(self) -> Iterator[list[warnings.WarningMessage]]:
        if self._filters is None:
            yield []
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.filters[:] = self._filters  # type: ignore[index]
            warnings._filters_mutated()  # type: ignore[attr-defined]
            yield caught


def _packed(caught: list[warnings.WarningMessage]) -> tuple[Warned, ...]:
    """Warnings that can be pickled: as they are, or else their text."""
    packed = []
    for one in caught:
        message, category = one.message, one.category
        try:
            pickle.loads(pickle.dumps((message, category)))
        except Exception:
            message, category = f"{category.__name__}: {message}", UserWarning
        packed.append(Warned(message, category, one.filename, one.lineno))
    return tuple(packed)


def _show(warned: tuple[Warned, ...]) -> None:
    """Show warnings that have passed the filters where they were raised."""
    for one in warned:
        warnings.showwarning(*one)
