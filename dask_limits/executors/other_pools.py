"""What others call what a `LimitedExecutor` has."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing.context import BaseContext
from typing import Final

from dask_limits.instead import refuse
from dask_limits.limits import LimitsArguments
from dask_limits.limits.limits import NOT_LIMITS

_FRESH: Final = (
    'isolation="fresh" runs each call in a new process, which context="spawn" or "forkserver"'
    " starts in that way"
)
_PER_PROCESS: Final = (
    'options={{"max_calls_per_process": {value!r}}} is the same for processes of this machine, and'
    ' isolation="fresh" runs each call in a new one'
)
_NUMBER: Final = "the number of processes is max_workers={value!r}"
_ELSEWHERE: Final = {
    "mp_context": f"processes are forked from one that has imported what calls need. {_FRESH}",
    "max_tasks_per_child": _PER_PROCESS,
    "maxtasksperchild": _PER_PROCESS,
    "on_progress": "what calls report by progress(value) is told by a Scheduler: task.on_progress",
    "thread_name_prefix": "calls run in processes, which have no threads to be named",
    "rerun": "it is of the journal: journal=Journal(path, rerun={value!r})",
    "n_jobs": _NUMBER,
    "n_workers": _NUMBER,
    "processes": f"{_NUMBER}, and num_processes= limits how many a call may have",
}
"""What to say of arguments of other pools, also where a limit has such a name elsewhere."""
_OWN: Final = ("where", "max_workers", "preload", "initializer", "initargs", "options", "journal")


def check_names(where: object, others: tuple[object, ...], limits: Mapping[str, object]) -> None:
    """Refuse arguments without a name, and those of other pools, and say what to use instead.

    Raises:
        TypeError: for these.
    """
    if others:
        also = f" For multiprocessing's context: {_FRESH}."
        raise TypeError(
            f"LimitedExecutor({where!r}, {', '.join(map(repr, others))}): all arguments but the"
            " first, where calls run, need their names (initializer=, initargs=, memory=,"
            " wall_time=, ...)." + (also if any(isinstance(o, BaseContext) for o in others) else "")
        )
    known = (*_OWN, *LimitsArguments.__annotations__)
    unknown = {name: value for name, value in limits.items() if name not in known}
    refuse("LimitedExecutor", unknown, known, NOT_LIMITS | _ELSEWHERE)
