"""The worker's, and what scheduler and worker have in common."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dask_limits.dask.compat.undocumented_name import names

if TYPE_CHECKING:
    import distributed

_required = partial(names, without="Registering LimitsWorkerPlugin fails with ImportError.")
_REQUIRED: Final = (
    _required(
        "distributed.worker:Worker.memory_manager 2022.3.0",
        "distributed.worker_memory:WorkerMemoryManager.memory_limit 2022.3.0",
        what_for="to know how much memory the calls of a worker may reserve together",
    )
    | _required(
        "distributed.core:Server.stream_handlers 2021.1",
        what_for="to send messages of our own between the scheduler and its workers",
    )
    | _required(
        "dask._task_spec:Task.is_coro 2024.9.0",
        "dask._task_spec:Task._is_coro 2024.9.0",
        what_for="to run limited coroutine functions in a task process",
    )
)
NAMES: Final = (
    _REQUIRED
    | names(
        "distributed.worker:_run_task 2024.11.0",
        "distributed.worker:Worker.execution_state 2021.1",
        "distributed.worker:Worker.active_threads_lock 2021.1",
        what_for="to run tasks of isolation 'thread' in a thread of the worker that knows its task",
        without="A task with isolation='thread' raises ImportError.",
    )
    | names(
        "distributed.worker_state_machine:FreeKeysEvent 2022.6.0",
        what_for="to give tasks that have not begun back to the scheduler",
        without="A task that was sent ahead stays there, also if another worker becomes free.",
    )
    | names(
        "distributed.worker:Worker.get_metrics 2021.1",
        what_for="to count memory and CPU of task processes among those of their worker",
        without="Dask shows memory and CPU of workers without those of their task processes.",
    )
)


def check_worker() -> None:
    """Raise ImportError unless there is all that limits on a worker cannot be without."""
    for name in _REQUIRED.values():
        name.get()


def memory_limit(worker: distributed.Worker) -> int | None:
    """The memory of a worker in bytes; None if it has no limit."""
    return worker.memory_manager.memory_limit or None


def thread_task(
    worker: distributed.Worker, run: Callable[[Any], Any], data: Any, key: Any, delay: float
) -> Callable[[], Any]:
    """A function that runs a task in the thread it is called in, as Dask runs its own.

    The task knows its worker, and may secede. The function calls `run` with the data, and returns
    the message that the worker expects of a finished task. The delay is that of the worker's clock
    behind the scheduler's, in seconds.
    """
    return partial(
        contextvars.copy_context().run,
        NAMES["distributed.worker:_run_task"].get(),
        run,
        data,
        worker.execution_state,
        key,
        worker.active_threads,
        worker.active_threads_lock,
        delay,
    )


def add_to_metrics(
    worker: distributed.Worker, measure: Callable[[], Awaitable[tuple[float, int]]]
) -> Callable[[], None]:
    """Have a worker report more CPU, in percent, and memory, in bytes, than its own process has.

    This is what its scheduler shows. Whether the worker spills or pauses goes by its own process.
    Returns what undoes it.
    """
    if not hasattr(worker, "get_metrics"):
        return lambda: None
    own = worker.get_metrics

    async def get_metrics() -> dict[str, Any]:
        metrics: dict[str, Any] = await own()
        with contextlib.suppress(Exception):  # the heartbeats of a worker must go on
            cpu, memory = await measure()
            metrics["cpu"] += cpu
            metrics["memory"] += memory
        return metrics

    def undo() -> None:
        if vars(worker).get("get_metrics") is get_metrics:
            del worker.get_metrics

    worker.get_metrics = get_metrics
    return undo


@functools.cache  # once in a process, however many workers it has
def log_no_failures_with(error: type[BaseException]) -> None:
    """Have workers not log tasks that fail with this error.

    Dask logs an error of eight lines for each: its key, its graph, and a traceback of our own code.
    """
    name = f"{error.__name__}("

    def is_another(record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        is_failure = str(record.msg).startswith("Compute Failed")  # of Worker.execute
        return not (is_failure and any(str(one).startswith(name) for one in arguments))

    logging.getLogger("distributed.worker").addFilter(is_another)


def free_key(worker: distributed.Worker, key: Hashable, stimulus_id: str) -> bool:
    """Have a worker forget a task that it has not begun. Returns whether it can."""
    event = NAMES["distributed.worker_state_machine:FreeKeysEvent"].find()
    if event is None:
        return False
    worker.handle_stimulus(event(keys=[key], stimulus_id=stimulus_id))
    return True


def run_as_plain_function(task: Any) -> None:
    """Have Dask hand a task to its executor, even if its function is a coroutine function."""
    if task.run_spec.is_coro:
        task.run_spec._is_coro = False


def listen(
    server: distributed.Worker | distributed.Scheduler, to: Mapping[str, Callable[..., object]]
) -> None:
    """Call functions for messages between scheduler and worker, by the `op` of the messages."""
    server.stream_handlers.update(to)
