"""Chooses the child process that the error of a breach names."""

from __future__ import annotations

from collections import Counter
from typing import Final

from dask_limits.limits.linux import proctree
from dask_limits.limits.outcome import ChildProcess

_MOST_LOOKED_AT: Final = 100
"""Number of processes whose command lines are read, while the call goes on: 20 us for each."""


def child_to_name(
    limit: str, runner: int, below: list[proctree.Process], own_cpu_time: float
) -> ChildProcess | None:
    """The process with the largest share of what a call went over; None if its own has.

    `runner` is the process that runs the function, `below` are all others of the call, and
    `own_cpu_time` is what the runner has used in this call.
    """
    children = [p for p in below if p.pid != runner and not p.has_ended]
    if not children:
        return None
    if limit == "num_processes":
        return _commonest(children, runner)
    used: float
    own: float
    if limit == "memory":
        pid = max(children, key=lambda p: p.resident).pid
        # With each shared page divided: a fork has all pages of its parent at first.
        used, own = proctree.proportional_memory(pid), proctree.proportional_memory(runner)
    elif limit == "cpu_time":
        child = max(children, key=_cpu_time)
        pid, used, own = child.pid, _cpu_time(child), own_cpu_time
    else:
        return None
    command = _command(pid, runner)
    return None if used <= own or command is None else ChildProcess(pid, command, used)


def _commonest(children: list[proctree.Process], runner: int) -> ChildProcess | None:
    """The newest of the processes with the commonest command line."""
    newest = sorted((p.pid for p in children), reverse=True)[:_MOST_LOOKED_AT]
    found = {pid: text for pid in newest if (text := _command(pid, runner)) is not None}
    if not found:
        return None
    [(command, number)] = Counter(found.values()).most_common(1)
    pid = next(pid for pid, text in found.items() if text == command)
    return ChildProcess(pid, command, number)


def _cpu_time(process: proctree.Process) -> float:
    return process.cpu_time + process.waited_cpu_time


def _command(pid: int, runner: int) -> str | None:
    """The command line of a process; empty for a fork of the runner, None when it is gone."""
    command = proctree.command_line(pid)
    return "" if command and command == proctree.command_line(runner) else command
