"""joblib's. Task processes import this."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from dask_limits.dask.compat.shared_patch import SharedPatch
from dask_limits.dask.compat.undocumented_name import Name

_DASK: Final = "dask"  # what joblib calls its backend on Dask

_BACKENDS: Final = Name(
    "joblib",
    "joblib.parallel:BACKENDS",
    "to run joblib within joblib in sequence, in a task process",
    "0.10",
    "joblib.Parallel within a limited joblib task raises ImportError.",
)
_SEQUENTIAL: Final = Name(
    "joblib",
    "joblib.parallel:SequentialBackend",
    _BACKENDS.what_for,
    "0.10",
    _BACKENDS.without,
)
_BATCH: Final = Name(
    "joblib",
    "joblib._dask:Batch",
    "to recognize what joblib sends to Dask",
    "0.12.2",
    "joblib.Parallel within a limited joblib task fails, because it has no Dask client.",
)
_FAILURE: Final = Name(
    "joblib",
    "joblib._utils:_ExceptionWithTraceback",
    "to tell joblib that a batch has failed",
    "1.4",
    "joblib may wait for ever for a limited batch that has failed.",
)
NAMES: Final = (_BACKENDS, _SEQUENTIAL, _BATCH, _FAILURE)


def is_batch(function: object) -> bool:
    """Whether a function is the batch of calls that joblib sends to Dask as one task."""
    kind = type(getattr(function, "func", None))
    return f"{kind.__module__}:{kind.__qualname__}" == _BATCH.path


def failed_batch(error: BaseException) -> object:
    """The result of a batch that has failed. If the task itself failed, joblib would wait for ever.

    Args:
        error: The exception that it ended with.
    """
    return _FAILURE.get()(error)


def sequential_instead_of_dask() -> AbstractContextManager[None]:
    """Have joblib's backend "dask" run calls in sequence in this block, in all threads."""
    return _sequential.block()


def _replace_backend() -> Callable[[], object]:
    backends: dict[str, Any] = _BACKENDS.get()
    original = backends.get(_DASK)
    backends[_DASK] = _SEQUENTIAL.get()

    def undo() -> None:
        if original is None:
            del backends[_DASK]
        else:
            backends[_DASK] = original

    return undo


_sequential: Final = SharedPatch(_replace_backend)
