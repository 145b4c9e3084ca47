"""What limits reserve of a worker, and what a worker in a batch job has for them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dask_limits.exceptions import LimitRefusedError
from dask_limits.limits import Limits
from dask_limits.placement.resources import Refusal, Request, WorkerResources, refusal
from dask_limits.units import format_bytes, format_seconds, parse_bytes, parse_seconds, whole_number

OWN_BYTES: Final = 256 * 2**20
"""How much of a batch job's memory Dask's worker, its nanny and our own processes take: 200 MiB of
resident memory without any task (distributed 2026.8), and room for growth. The memory limit of a
job covers all that runs in it; the limit of a worker elsewhere covers only what it is asked to run.
"""


def request_of(limits: Mapping[str, Any]) -> Request:
    """What a call with these limits reserves.

    They are as in a task's annotations. This makes no `Limits`, because Dask's scheduler calls it
    for every task. Limits that are not valid reserve nothing: the call fails with what is wrong
    with them when it runs.

    Example:
        >>> request_of({"memory": 1024, "wall_time": 2.0, "grace_period": 1.0})
        Request(memory=1024, cores=1, seconds=3.0)
    """
    try:
        return _request_of(*(limits.get(name) for name in _RESERVES))
    except (AttributeError, TypeError, ValueError):
        return Request()


_RESERVES: Final = "memory", "cores", "wall_time", "grace_period", "reserve"


def _parsed(memory: Any, cores: Any, wall_time: Any, grace_period: Any, reserve: Any) -> Request:
    if reserve is False:
        memory = cores = None
    seconds = 0.0
    if wall_time is not None:
        seconds = parse_seconds(wall_time, "wall_time")
        seconds += parse_seconds(grace_period, "grace_period") if grace_period else 0
    return Request(
        0 if memory is None else parse_bytes(memory, "memory"),
        1 if cores is None else whole_number(cores, "cores"),
        seconds,
    )


# Typed: True is no number of cores, although it equals 1.
_parsed_once: Final = functools.lru_cache(1000, typed=True)(_parsed)


def _request_of(*values: Any) -> Request:
    try:
        hash(values)
    except TypeError:
        return _parsed(*values)
    return _parsed_once(*values)


def annotation_error(
    name: str, limits: Mapping[str, Any], workers: Iterable[WorkerResources]
) -> Exception | None:
    """The error of a task that none of these workers could ever run; None if one could.

    It is a `LimitRefusedError`, or what is wrong with the limits if they are not valid.
    """
    workers = list(workers)
    if refusal(request_of(limits), workers) is None:
        return None
    try:
        return refusal_error(name, Limits(**limits), workers)
    except (TypeError, ValueError) as error:
        return error


def refusal_error(
    name: str, limits: Limits, workers: Iterable[WorkerResources]
) -> LimitRefusedError | None:
    """The error of a call that none of these workers could ever run; None if one could."""
    if (why := refusal(request_of(limits.as_dict()), workers)) is None:
        return None
    return LimitRefusedError(
        f"{name}() {_comparison(why)}",
        call=name,
        limits=limits,
        limit=why.limit,
        asked=why.asked,
        most=why.most,
    )


def _comparison(why: Refusal) -> str:
    match why.limit:
        case "memory":
            asked = f"reserves {format_bytes(int(why.asked))} of memory"
            most = f"has more than {format_bytes(int(why.most))} for its calls"
        case "cores":
            asked, most = f"reserves {why.asked} cores", f"has more than {why.most}"
        case _:
            asked = f"may take {format_seconds(why.asked)} (its wall_time and grace_period)"
            most = f"has more than {format_seconds(why.most)} for a call"
    instead = "longer jobs" if why.limit == "wall_time" else "larger workers"
    return (
        f"{asked}, but no worker, present or requested, {most}. Lower the limit, or use {instead}."
    )


def job_resources(
    memory: float, cores: int, length: float = math.inf, ends_at: float = math.inf
) -> WorkerResources:
    """What a worker that has a batch job of its own has for limited calls.

    The memory is in bytes, the length of the job in seconds; infinity if nothing limits them.
    """
    # The last seconds of a job are kept free, so that its worker can leave: results move to other
    # workers, and calls without a limit on time may still end. This is little of a long job, and
    # not all of one that is as short as a test's.
    margin = 0 if length == math.inf else min(max(0.05 * length, 2), 60)
    return WorkerResources(max(memory - OWN_BYTES, 0), cores, ends_at, length, margin)
