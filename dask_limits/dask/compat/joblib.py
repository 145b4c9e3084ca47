"""joblib's. Task processes import this."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from dask_limits.dask.compat.shared_patch import shared
from dask_limits.dask.compat.undocumented_name import names

_BATCH: Final = "joblib._dask:Batch"
_LOCAL: Final = ("loky", "threading", "multiprocessing")  # backends of joblib, on this machine
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
    | names(
        "joblib.parallel:_backend 0.10",
        "joblib.parallel:default_parallel_config 1.3",
        what_for="to have a parallel_config hold for the fits of Limited estimators, too",
        without="joblib in such a fit goes by its defaults.",
    )
    | names(
        "joblib.parallel:BatchedCalls.items 0.11",
        what_for="to call the batches of joblib as their functions are called",
        without="Errors of the backend 'dask_limits' name BatchedCalls instead.",
    )
)


def is_batch(function: object) -> bool:
    """Whether a function is the batch of calls that joblib sends to Dask as one task."""
    kind = type(getattr(function, "func", None))
    return f"{kind.__module__}:{kind.__qualname__}" == _BATCH


def functions_of(batch: object) -> list[Callable[..., Any]]:
    """The functions that a batch calls which joblib hands to a backend."""
    return [item[0] for item in getattr(batch, "items", ())]


def failed_batch(error: BaseException) -> object:
    """The result of a batch that has failed: if its task failed, joblib would wait for ever."""
    return NAMES["joblib._utils:_ExceptionWithTraceback"].get()(error)


def setting_here() -> dict[str, Any]:
    """What this thread is to have of joblib, by `parallel_config`, for a process on this machine.

    Its backend is one that runs calls on this machine, or in sequence.
    """
    defaults = NAMES["joblib.parallel:default_parallel_config"].find() or {}
    config = getattr(NAMES["joblib.parallel:_backend"].find(), "config", {})
    setting = {name: value for name, value in config.items() if value is not defaults.get(name)}
    if (backend := setting.get("backend")) is not None:
        known: dict[str, Any] = NAMES["joblib.parallel:BACKENDS"].get()
        local = {known[name] for name in _LOCAL if name in known}
        kind = type(backend) if type(backend) in local else known["sequential"]
        setting["backend"] = kind, backend.nesting_level, backend.inner_max_num_threads
    return setting


def with_setting(setting: dict[str, Any]) -> AbstractContextManager[object]:
    """Have this of joblib in a block, in this thread."""
    if not setting:
        return nullcontext()
    import joblib

    if "backend" in setting:
        kind, level, threads = setting["backend"]
        backend = kind(nesting_level=level)
        backend.inner_max_num_threads = threads
        setting = setting | {"backend": backend}
    found: AbstractContextManager[object] = joblib.parallel_config(**setting)
    return found


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
