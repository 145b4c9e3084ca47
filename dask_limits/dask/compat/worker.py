"""The worker's, and what scheduler and worker have in common."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dask_limits.dask.compat.undocumented_name import Name

if TYPE_CHECKING:
    import distributed

_RUN_TASK: Final = Name(
    "distributed",
    "distributed.worker:_run_task",
    "to run tasks of isolation 'thread' in a thread of the worker that knows its task",
    "2024.11.0",
    "A task with isolation='thread' raises ImportError.",
)
_FREE_KEYS: Final = Name(
    "distributed",
    "distributed.worker_state_machine:FreeKeysEvent",
    "to give tasks that have not begun back to the scheduler",
    "2022.6.0",
    "A task that was sent ahead stays with its worker, also if another one becomes free.",
)
_NOT_REGISTERED: Final = "Registering LimitsWorkerPlugin fails with ImportError."
_MEMORY: Final = "to know how much memory the calls of a worker may reserve together"
_COROUTINES: Final = "to run limited coroutine functions in a task process"
_REQUIRED: Final = (
    Name(
        "distributed",
        "distributed.worker:Worker.memory_manager",
        _MEMORY,
        "2022.3.0",
        _NOT_REGISTERED,
    ),
    Name(
        "distributed",
        "distributed.worker_memory:WorkerMemoryManager.memory_limit",
        _MEMORY,
        "2022.3.0",
        _NOT_REGISTERED,
    ),
    Name(
        "distributed",
        "distributed.core:Server.stream_handlers",
        "to send messages of our own between the scheduler and its workers",
        "2021.1",
        _NOT_REGISTERED,
    ),
    Name(
        "distributed",
        "distributed.worker:Worker.loop",
        "to do things later, and in the worker's own thread",
        "2021.1",
        _NOT_REGISTERED,
    ),
    *(
        Name("dask", f"dask._task_spec:Task.{name}", _COROUTINES, "2024.9.0", _NOT_REGISTERED)
        for name in ("is_coro", "_is_coro")
    ),
)
NAMES: Final = (
    *_REQUIRED,
    _RUN_TASK,
    _FREE_KEYS,
    Name(
        "distributed",
        "distributed.worker:Worker.execution_state",
        _RUN_TASK.what_for,
        "2021.1",
        _RUN_TASK.without,
    ),
    Name(
        "distributed",
        "distributed.worker:Worker.active_threads_lock",
        _RUN_TASK.what_for,
        "2021.1",
        _RUN_TASK.without,
    ),
    Name(
        "distributed",
        "distributed.core:Server.handlers",
        "to let workers report to the scheduler what they have",
        "2021.1",
        "Dask chooses the worker of a limited call without regard to what is free there.",
    ),
)


def check_worker() -> None:
    """Check that this version of Dask has what limits on a worker cannot be without.

    Raises:
        ImportError: if it has not.
    """
    for name in _REQUIRED:
        name.get()


def memory_limit(worker: distributed.Worker) -> int | None:
    """The memory of a worker in bytes; None if it has no limit."""
    return worker.memory_manager.memory_limit or None


def thread_task(
    worker: distributed.Worker, run: Callable[[Any], Any], data: Any, key: Any, delay: float
) -> Callable[[], Any]:
    """A function that runs a task in the thread it is called in, as Dask runs its own.

    The task knows its worker, and may secede.

    Args:
        worker: Whose task it is.
        run: What to call.
        data: What to call it with: the values that the task depends on, by key.
        key: The key of the task.
        delay: The difference of the worker's clock to the scheduler's, in seconds.

    Returns:
        The function. It returns the message that the worker expects of a finished task.
    """
    return partial(
        contextvars.copy_context().run,
        _RUN_TASK.get(),
        run,
        data,
        worker.execution_state,
        key,
        worker.active_threads,
        worker.active_threads_lock,
        delay,
    )


def free_key(worker: distributed.Worker, key: Hashable, stimulus_id: str) -> bool:
    """Have a worker forget a task that it has not begun. Returns whether it can."""
    event = _FREE_KEYS.find()
    if event is None:
        return False
    worker.handle_stimulus(event(keys=[key], stimulus_id=stimulus_id))
    return True


def run_as_plain_function(task: Any) -> None:
    """Have Dask hand a task to its executor, even if its function is a coroutine function."""
    if task.run_spec.is_coro:
        task.run_spec._is_coro = False


def call_soon(worker: distributed.Worker, function: Callable[..., Any], *args: Any) -> None:
    """Call a function soon, in the thread of a worker's loop. Can be called in any thread."""
    worker.loop.add_callback(function, *args)


def call_later(
    worker: distributed.Worker, seconds: float, function: Callable[..., Any], *args: Any
) -> None:
    """Call a function after some time. To be called in the thread of the worker's loop."""
    worker.loop.call_later(seconds, function, *args)


def listen(
    server: distributed.Worker | distributed.Scheduler, to: Mapping[str, Callable[..., object]]
) -> None:
    """Call functions for messages that come over the stream between scheduler and worker.

    Args:
        server: Who listens.
        to: The functions, by the `op` of the messages.
    """
    server.stream_handlers.update(to)


def answer(scheduler: distributed.Scheduler, to: Mapping[str, Callable[..., object]]) -> None:
    """Have a scheduler answer remote calls of these names, by these functions."""
    scheduler.handlers.update(to)
