"""The error of a call that went over a limit, and its message."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Final

from dask_limits import exceptions
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import ChildProcess, Usage
from dask_limits.units import format_bytes, format_seconds

BREACHES: Final[dict[str, type[exceptions.Breach]]] = {
    "wall_time": exceptions.WallTimeBreach,
    "cpu_time": exceptions.CpuTimeBreach,
    "memory": exceptions.MemoryBreach,
    "num_processes": exceptions.ProcessBreach,
}
_FRAMES: Final = re.compile(r"(?:\n  .+){1,6}")
"""The lines of a stack that a message shows; the error has all of it as an attribute."""


def breach(
    name: str,
    limits: Limits,
    limit: str,
    usage: Usage,
    stacks: str,
    child: ChildProcess | None = None,
    importing: Sequence[str] = (),
) -> exceptions.Breach:
    """The error of a call of the function `name` that went over the limit `limit`.

    `stacks` are as faulthandler writes them. `child` is the process with the largest share of what
    was used, if that is a child process. `importing` are the modules that the call had imported so
    far, in that order, if it was ended in an import.
    """
    used, allowed = _figures(limit, usage, limits)
    part = "" if child is None else _share(limit, child)
    part += _imports(importing)
    error = BREACHES[limit](
        f"{name}() went over its {limit} limit of {allowed}: {used}{part}{where(stacks)}",
        call=name,
        limits=limits,
        usage=usage,
        stacks=stacks,
    )
    error.child = child
    return error


def _share(limit: str, child: ChildProcess) -> str:
    """The share of a child process, as text."""
    command = child.command or "a fork of the function's"
    one = f"child process {child.pid} ({command})"
    if limit == "memory":
        return f", {format_bytes(round(child.used))} of it in {one}"
    if limit == "cpu_time":
        return f", {format_seconds(child.used)} of it in {one}"
    if child.used == 1:
        return f", one of them {one}"
    return f", {child.used} of them child processes such as {child.pid} ({command})"


def is_in_import(stacks: str) -> bool:
    """Whether the thread that ran the function was in an import."""
    _, _, current = stacks.partition("Current thread")
    return "<frozen importlib._bootstrap>" in current.split("\n\n")[0]


def _imports(modules: Sequence[str]) -> str:
    """How far an import had come, and how to have it before the call, as text."""
    packages = {module.partition(".")[0]: None for module in modules}
    not_it = {*sys.stdlib_module_names, "dask_limits"}  # whose own imports come before
    first = next((name for name in packages if name not in not_it), None)
    if first is None:
        return ""
    n = "1 module" if len(modules) == 1 else f"{len(modules)} modules"
    return (
        f", in its imports ({n} until then, from {first} on). They take nothing of a call's limits"
        f" if they are done before it: preload=[{first!r}]"
    )


def _figures(limit: str, usage: Usage, limits: Limits) -> tuple[str, str]:
    """The usage and the limit, as text."""
    if limit == "memory":
        return f"it had {format_bytes(usage.peak_memory)}", format_bytes(limits.memory or 0)
    if limit == "num_processes":
        return f"it had {usage.num_processes} processes", f"{limits.num_processes}"
    used, allowed = getattr(usage, limit), getattr(limits, limit)
    return f"it took {format_seconds(used)}", format_seconds(allowed or 0.0)


def where(stacks: str) -> str:
    """The innermost lines of the stack of the thread that ran the function, for a message."""
    found = _FRAMES.search(stacks, max(stacks.find("Current thread"), 0))
    return found[0] if found else ""
