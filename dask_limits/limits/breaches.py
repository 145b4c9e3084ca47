"""The error of a call that went over a limit, and its message."""

from __future__ import annotations

from typing import Final

from dask_limits.exceptions import (
    Breach,
    CpuTimeBreach,
    MemoryBreach,
    ProcessBreach,
    WallTimeBreach,
)
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import ChildProcess, Usage
from dask_limits.units import format_bytes, format_seconds

BREACHES: Final[dict[str, type[Breach]]] = {
    "wall_time": WallTimeBreach,
    "cpu_time": CpuTimeBreach,
    "memory": MemoryBreach,
    "num_processes": ProcessBreach,
}
_STACK_LINES: Final = 6
"""Lines of a stack in a message; the error has all of it as an attribute."""


def breach(
    name: str,
    limits: Limits,
    limit: str,
    usage: Usage,
    stacks: str,
    child: ChildProcess | None = None,
) -> Breach:
    """The error of a call that went over a limit.

    Args:
        name: The name of the function.
        limits: The limits of the call.
        limit: The name of the one that it went over.
        usage: Its usage.
        stacks: Python stacks of its threads, as faulthandler writes them; may be empty.
        child: The child process with the largest share of what was used, if it is one.
    """
    used, allowed = _figures(limit, usage, limits)
    part = "" if child is None else _share(limit, child)
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


def _figures(limit: str, usage: Usage, limits: Limits) -> tuple[str, str]:
    """The usage and the limit, as text."""
    if limit == "memory":
        return f"had {format_bytes(usage.peak_memory)}", format_bytes(limits.memory or 0)
    if limit == "num_processes":
        return f"had {usage.num_processes}", f"{limits.num_processes}"
    used = usage.wall_time if limit == "wall_time" else usage.cpu_time
    allowed = limits.wall_time if limit == "wall_time" else limits.cpu_time
    return f"took {format_seconds(used)}", format_seconds(allowed or 0.0)


def where(stacks: str) -> str:
    """The innermost lines of the stack of the thread that ran the function, for a message."""
    lines = stacks.splitlines()
    at = next((n for n, line in enumerate(lines) if line.startswith("Current thread")), None)
    if at is None:
        at = next((n for n, line in enumerate(lines) if "most recent call first" in line), None)
    if at is None:
        return ""
    frames: list[str] = []
    for line in lines[at + 1 :]:
        if not line.startswith("  ") or len(frames) == _STACK_LINES:
            break
        frames.append(line)
    return ", in:\n" + "\n".join(frames) if frames else ""
