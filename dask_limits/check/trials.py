"""The trials: each kind of limit, and each level of isolation."""

from __future__ import annotations

import ctypes
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from dask_limits import Outcome, exceptions, limit

_TOLERANCE_S: Final = 0.1
"""How late a limit may be, in the median of a few tries: a busy machine delays some of them."""
_TRIES: Final = 5
_FAR_S: Final = 60.0
"""How long a call would run if its limit did not end it."""
_PR_GET_CHILD_SUBREAPER: Final = 37  # prctl(2)


@dataclass(frozen=True)
class Finding:
    """The result of a trial: what is expected and what was found, in words.

    Its value is the result if that is a number: seconds, or bytes for memory.
    """

    name: str
    promise: str
    measured: str
    holds: bool
    value: float | None = None


def find_all(tell: Callable[[str], object] = lambda _: None) -> list[Finding]:
    """Run all trials, which takes about ten seconds. Each is told of before it starts."""
    findings: list[Finding] = []
    for name, trial in _TRIALS.items():
        tell(name)
        try:
            findings.append(Finding(name, *trial()))
        except Exception as error:  # a finding
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            findings.append(Finding(name, "works", what, holds=False))
    return findings


# -- the trials: each returns all of its finding but the name ----------------------------------

_Result = tuple[str, str, bool, float | None]


def _wall_time() -> _Result:
    seconds = 0.2
    limit(abs, wall_time=_FAR_S)(-1)  # the first call starts the guardian
    overshoots = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        _ended(exceptions.WallTimeBreach, limit(time.sleep, wall_time=seconds).run, _FAR_S)
        overshoots.append(time.perf_counter() - start - seconds)
    return _late(overshoots)


def _cpu_time() -> _Result:
    seconds = 0.2
    call = limit(_spin, cpu_time=seconds)
    outcomes = [_ended(exceptions.CpuTimeBreach, call.run) for _ in range(_TRIES)]
    return _late([outcome.usage.cpu_time - seconds for outcome in outcomes])


def _late(overshoots: list[float]) -> _Result:
    median, worst = statistics.median(overshoots), max(overshoots)
    promise = f"ends a call within {_TOLERANCE_S * 1000:.0f} ms"
    measured = f"{median * 1000:.0f} ms late (worst of {_TRIES}: {worst * 1000:.0f} ms)"
    return promise, measured, median <= _TOLERANCE_S, median


def _memory() -> _Result:
    allowed, rate = 300_000_000, 1_000_000_000
    call = limit(_grow, memory=allowed)
    outcomes = [_ended(exceptions.MemoryBreach, call.run, rate) for _ in range(_TRIES)]
    overshoots = [outcome.usage.peak_memory - allowed for outcome in outcomes]
    median, worst = statistics.median(overshoots), max(overshoots)
    promise = f"ends a call that grows by 1 GB/s within {_TOLERANCE_S * rate / 1e6:.0f} MB"
    measured = f"{median / 1e6:.0f} MB over (worst of {_TRIES}: {worst / 1e6:.0f} MB)"
    return promise, measured, median <= _TOLERANCE_S * rate, median


def _num_processes() -> _Result:
    outcome = _ended(exceptions.ProcessBreach, limit(_start_another, num_processes=1).run)
    measured = f"after {outcome.usage.wall_time * 1000:.0f} ms"
    return "ends a call with one process too many", measured, True, None


def _tree() -> _Result:
    call = limit(_detach, wall_time=0.3, capture_output=True)
    outcome = _ended(exceptions.WallTimeBreach, call.run)
    pid = int(outcome.usage.stdout or 0)
    gone = not Path(f"/proc/{pid}").exists()
    measured = "ended" if gone else f"process {pid} still runs"
    return "ends detached processes with their call", measured, gone, None


def _grace_period() -> _Result:
    heard = limit(_wait_for_a_warning, wall_time=0.2, grace_period=10).run().result()
    measured = f"the call received {heard}"
    return "warns a call before it ends it", measured, heard == "SIGALRM", None


def _capture_output() -> _Result:
    outcome = limit(subprocess.call, wall_time=_FAR_S, capture_output=True).run(["echo", "text"])
    outcome.result()
    output = outcome.usage.stdout
    return "captures the output of child processes", repr(output), output == "text\n", None


def _subreaper() -> _Result:
    holds = limit(_is_subreaper, wall_time=_FAR_S).run().result()
    return "task processes adopt orphans", "yes" if holds else "no", holds, None


def _isolation(level: Literal["clean", "warm", "fresh", "thread"], calls: int) -> _Result:
    call = limit(abs, wall_time=_FAR_S, isolation=level)
    call(-1)  # the first call takes longer
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call(-1)
        times.append(time.perf_counter() - start)
    slow = limit(_sleep_in_steps, wall_time=0.1, isolation=level)
    _ended(exceptions.WallTimeBreach, slow.run)
    median = statistics.median(times)
    return "works", f"{median * 1000:.3g} ms a call", True, median


def _ended(by: type[Exception], run: Callable[..., Outcome[Any]], *args: Any) -> Outcome[Any]:
    """Run a call that should be ended by a breach of its limits."""
    outcome = run(*args)
    if not isinstance(outcome.exception, by):
        what = outcome.exception or f"the return value {outcome.value!r}"
        raise AssertionError(f"the call should end with {by.__name__}, but ended with: {what}")
    return outcome


_TRIALS: Final[dict[str, Callable[[], _Result]]] = {
    "wall_time": _wall_time,
    "cpu_time": _cpu_time,
    "memory": _memory,
    "num_processes": _num_processes,
    "process tree": _tree,
    "grace_period": _grace_period,
    "capture_output": _capture_output,
    "subreaper": _subreaper,
    "isolation clean": partial(_isolation, "clean", 200),
    "isolation warm": partial(_isolation, "warm", 200),
    "isolation fresh": partial(_isolation, "fresh", 10),
    "isolation thread": partial(_isolation, "thread", 200),
}


# -- the functions that are called ---------------------------------------------------------


def _spin() -> None:
    while True:
        pass


def _sleep_in_steps() -> None:
    while True:
        time.sleep(0.01)


def _grow(bytes_per_second: int) -> None:
    blocks, block, start = [], 4_000_000, time.perf_counter()
    while True:
        blocks.append(b"x" * block)
        ahead = len(blocks) * block / bytes_per_second - (time.perf_counter() - start)
        if ahead > 0:
            time.sleep(ahead)


def _start_another() -> None:
    subprocess.run(["sleep", str(_FAR_S)], check=False)


def _detach() -> None:
    """Start a process, detach it, and print its id."""
    if os.fork() == 0:
        os.setsid()
        if pid := os.fork():
            os.write(1, b"%d" % pid)
            os._exit(0)
        time.sleep(_FAR_S)
        os._exit(0)
    time.sleep(_FAR_S)


def _wait_for_a_warning() -> str:
    heard: list[str] = []
    signal.signal(signal.SIGALRM, lambda number, _: heard.append(signal.Signals(number).name))
    deadline = time.monotonic() + 5
    while not heard and time.monotonic() < deadline:
        time.sleep(0.01)
    return heard[0] if heard else "nothing"


def _is_subreaper() -> bool:
    value = ctypes.c_int()
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0)
    return value.value == 1
