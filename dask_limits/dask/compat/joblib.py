"""joblib's. Task processes import this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dask_limits.dask.compat.shared_patch import shared
from dask_limits.dask.compat.undocumented_name import names

_BATCH: Final = "joblib._dask:Batch"
NAMES: Final = (
    names(
        "joblib.parallel:BACKENDS 0.10",
        "joblib.parallel:SequentialBackend 0.10",
        what_for="to run joblib within joblib in sequence, in a task process",
        without="joblib.Parallel within a limited joblib task raises ImportError.",
    )
    | names(
        f"{_BATCH} 0.12.2",
        what_for="to recognize what joblib sends to Dask",
        without="joblib.Parallel within a limited joblib task fails: it has no Dask client.",
    )
    | names(
        "joblib._utils:_ExceptionWithTraceback 1.4",
        what_for="to tell joblib that a batch has failed",
        without="joblib may wait for ever for a limited batch that has failed.",
    )
)


def is_batch(function: object) -> bool:
    """Whether a function is the batch of calls that joblib sends to Dask as one task."""
    kind = type(getattr(function, "func", None))
    return f"{kind.__module__}:{kind.__qualname__}" == _BATCH


def failed_batch(error: BaseException) -> object:
    """The result of a batch that has failed: if its task failed, joblib would wait for ever."""
    return NAMES["joblib._utils:_ExceptionWithTraceback"].get()(error)


@shared
def sequential_instead_of_dask() -> Iterator[None]:
    """Have joblib's backend "dask" run calls in sequence in this block, in all threads."""
    backends: dict[str, Any] = NAMES["joblib.parallel:BACKENDS"].get()
    original = backends.get("dask")
    backends["dask"] = NAMES["joblib.parallel:SequentialBackend"].get()
    yield
    if original is None:
        del backends["dask"]
    else:
        backends["dask"] = original
