"""What is logged of calls that end, and counted for metrics.

Each process does this for the calls that run in its own task processes. A program that has its
calls run elsewhere, on Dask or in a pool, logs how they have ended when it hears of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dask_limits import exceptions
from dask_limits.in_short import with_arguments
from dask_limits.limits import call_metrics
from dask_limits.limits.endings import word_of
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.printable import printable
from dask_limits.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from dask_limits.limits.packed_outcome import PackedOutcome

logger = logging.getLogger("dask_limits.calls")
# A program that has not set up logging would print a line for each breach that it handles.
logger.addHandler(logging.NullHandler())

_LENGTH: Final = 500  # characters of a message
_MOST: Final = 100
_WINDOW_S: Final = 10.0
"""So many warnings at most of one function and ending in so many seconds. A search with a breach
now and then has all of them; a million calls that are refused at once do not fill a disk."""
_MOST_KINDS: Final = 1000
"""How many functions and endings are remembered for that."""


class Place(NamedTuple):
    """Where calls have run, for a program elsewhere that hears of it.

    Attributes:
        name: As the log has it.
        process: The one that has logged how they ended, see `this_process`; empty if none has.
        worker: The name of the worker.
        job: The id of its batch job; empty if it is in none.
    """

    name: str
    process: str
    worker: str
    job: str


@dataclass
class _Window:
    ends: float  # seconds of time.monotonic()
    n: int = 0  # warnings in it


_windows: dict[tuple[str, str], _Window] = {}


def leave_to(program: str) -> None:
    """Log nothing of calls in this process if it works for another one, which hears how they end.

    Forked from that one, it may have the same log.
    """
    logger.disabled = program != this_process()


def this_process() -> str:
    """What tells this process from others, on other machines too."""
    return f"process {os.getpid()} of {os.uname().nodename}"


def ended_here(outcome: PackedOutcome[Any], place: str, arguments: Callable[[], str] = str) -> None:
    """Log and count a call that has ended in a task process of this process.

    `place` says more of where than `this_process`, if it is not empty. `arguments` makes a text of
    them, where there is something to log.
    """
    if (metrics := call_metrics.kept()) is not None:
        metrics.note(outcome.name, word_of_packed(outcome), usage_of(outcome))
    _log(outcome, place, arguments)


def ended_in_thread(
    outcome: Outcome[Any], name: str, place: str, arguments: Callable[[], str]
) -> None:
    """The same of a call that has ended in a thread of this process."""
    ending = word_of(outcome.exception)
    if (metrics := call_metrics.kept()) is not None:
        metrics.note(name, ending, outcome.usage)
    _say(name, ending, outcome.usage, outcome.exception, place, arguments)


def ended_elsewhere(outcome: PackedOutcome[Any], place: Place | None, arguments: str) -> None:
    """Log a call that has ended in another process, unless that is this one."""
    if _is_plain(outcome):
        return
    if place is None:
        _log(outcome, "another process", lambda: arguments)
    elif place.process != this_process():
        _log(outcome, place.name, lambda: arguments)


def failed(name: str, error: BaseException, arguments: str) -> None:
    """Log a call that has ended without an outcome: it was refused, or is lost."""
    ending = word_of(error)
    _say(name, "lost" if ending == "raised" else ending, None, error, "", lambda: arguments)


def refused_here(name: str, error: BaseException, arguments: str) -> None:
    """Log and count a call that this process has refused."""
    count_here(name, error)
    failed(name, error, arguments)


def count_here(name: str, error: BaseException) -> None:
    """Count a call that this process ends with an error, which is logged where that is raised."""
    if (metrics := call_metrics.kept()) is not None:
        metrics.note(name, word_of(error), None)


def runs_again(name: str, why: str, attempt: int) -> None:
    """Log that a call runs again, and why, in one line; `attempt` is that of the next run."""
    if logger.isEnabledFor(logging.WARNING) and (number := _admitted(name, "again")):
        text = printable(why)
        logger.warning("%s() runs again, attempt %d: %s%s", name, attempt, text, _last(number))


def rerun_here(name: str, why: str, attempt: int) -> None:
    """Log and count that this process has a call run again that was lost."""
    if (metrics := call_metrics.kept()) is not None:
        metrics.reruns += 1
    runs_again(name, why, attempt)


def word_of_packed(outcome: PackedOutcome[Any]) -> str:
    """How a call has ended, in a word, as `word_of` has it."""
    if outcome.raised is None:
        return word_of(outcome.exception)
    return _warned_for(outcome) or "raised"


def _warned_for(outcome: PackedOutcome[Any]) -> str:
    """The limit for which a call was warned that then raised; empty if it was not warned.

    What it raised was most often the warning. That is still pickled.
    """
    limits, usage = outcome.limits, outcome.usage
    if limits.grace_period:
        if limits.wall_time is not None and usage.wall_time > limits.wall_time:
            return "wall_time"
        if limits.cpu_time is not None and usage.cpu_time > limits.cpu_time:
            return "cpu_time"
    return ""


def usage_of(outcome: PackedOutcome[Any]) -> Usage | None:
    """What a call has used; None if it has not run."""
    return outcome.usage if outcome.exception is None else outcome.exception.usage


def _log(outcome: PackedOutcome[Any], place: str, arguments: Callable[[], str]) -> None:
    if not _is_plain(outcome):
        about = word_of_packed(outcome), usage_of(outcome), outcome.exception, place
        _say(outcome.name, *about, arguments)


def _is_plain(outcome: PackedOutcome[Any]) -> bool:
    """Whether nothing is logged of it. This is asked for each call, so it costs next to nothing."""
    silent = outcome.exception is None and not outcome.limits.grace_period
    return silent and not logger.isEnabledFor(logging.DEBUG)


def _say(
    name: str,
    ending: str,
    usage: Usage | None,
    error: BaseException | None,
    place: str,
    arguments: Callable[[], str],
) -> None:
    """Log one line: a warning for what neither returned, nor raised, nor was cancelled."""
    if ending in _HOW:
        if logger.isEnabledFor(logging.DEBUG):
            where = _where(usage, place)
            logger.debug("%s(%s) %s%s", name, arguments(), _HOW[ending], where)
    elif logger.isEnabledFor(logging.WARNING) and (number := _admitted(name, ending)):
        line = f"{name}() was warned of its {ending} limit, and has raised"
        line = line if error is None else in_a_line(error)
        line = with_arguments(line, name, arguments())
        logger.warning("%s%s%s", line, _where(usage, place), _last(number))


_HOW: Final = {"returned": "has returned", "raised": "has raised", "cancelled": "was cancelled"}


def in_a_line(error: BaseException) -> str:
    """What an error says, without the stack, in one line that can be printed."""
    try:
        text = str(error).partition("\n")[0]
    except Exception:  # a user's class may do anything
        text = ""
    text = printable(text if len(text) <= _LENGTH else f"{text[:_LENGTH]}...")
    known = isinstance(error, exceptions.CallError)  # its message says what it is
    return text if known and text else f"{printable(type(error).__name__)}: {text}"


def _where(usage: Usage | None, place: str) -> str:
    used = ""
    if usage is not None:
        used = (
            f"{format_seconds(usage.wall_time)}, CPU {format_seconds(usage.cpu_time)},"
            f" {format_bytes(usage.peak_memory)}, processes {usage.num_processes}; "
        )
    return f" [{used}{printable(place) or this_process()}]"


def _admitted(name: str, ending: str) -> int:
    """Which warning it is of its kind in these seconds; 0 if it is one too many."""
    now = time.monotonic()
    window = _windows.get((name, ending))
    if window is None or now >= window.ends:
        if len(_windows) >= _MOST_KINDS:
            _windows.clear()
        window = _windows[name, ending] = _Window(now + _WINDOW_S)
    window.n += 1
    return window.n if window.n <= _MOST else 0


def _last(number: int) -> str:
    if number < _MOST:
        return ""
    return f". This is number {_MOST}: others like it are left out for up to {_WINDOW_S:.0f} s"
