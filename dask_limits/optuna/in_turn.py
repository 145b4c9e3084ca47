from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Iterator
from typing import Any

import optuna


@contextlib.contextmanager
def asked_in_turn(study: optuna.Study) -> Iterator[None]:
    """A context in which one thread at a time asks a study for a trial.

    On SQLite, two threads that ask at the same time may get the same enqueued trial: it does not
    lock the row that Optuna reads first. One of them then fails, as in `study.optimize(n_jobs=2)`.
    """
    study.ask = _InTurn(study)  # type: ignore[method-assign]
    try:
        yield
    finally:
        study.__dict__.pop("ask", None)


class _InTurn:
    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> optuna.Trial:
        with self._lock:
            return type(self._study).ask(self._study, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:  # the objective may have the study
        return types.MethodType, (type(self._study).ask, self._study)
