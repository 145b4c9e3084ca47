"""The reasons for which SLURM never starts a job that waits in its queue, and what to change.

SLURM accepts jobs that break some of its limits, and keeps them in the queue until somebody changes
the limit or the job. See <https://slurm.schedmd.com/job_reason_codes.html>, or JOB REASON CODES in
`man squeue`.

These are not among them, although a job may wait for them for long: nodes and partitions that are
down; limits on what all jobs of a user, an account or a QOS have at one time (`...Grp...`,
`...PerUser`, `...PerAccount`); and jobs on hold (`JobHeldUser`, `JobHeldAdmin`), as a person has
decided to hold them and can release them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from dask_limits.batch_systems.slurm import show
from dask_limits.batch_systems.walltimes import walltime_seconds

_Fields = Mapping[str, str]
"""What `scontrol show` says of a job or a partition."""

_QUEUE: Final = "or specify another partition with `queue`"
_DIRECTIVES: Final = "in `job_extra_directives`"
_TEXTS: Final = {
    "AccountNotAllowed": "Partition {Partition} does not allow account {Account}. Specify another"
    f" `account`, {_QUEUE}.",
    "BadConstraints": "No node of partition {Partition} satisfies the job's constraints (features:"
    f" {{Features}}). Change `cores`, `memory`, or --constraint {_DIRECTIVES}, {_QUEUE}.",
    "DeadLine": "The job cannot end before its deadline. Change --deadline"
    f" {_DIRECTIVES}, or specify a shorter `walltime`.",
    "DependencyNeverSatisfied": "The job depends on a job that failed, was cancelled or is unknown"
    f" ({{Dependency}}). Change --dependency {_DIRECTIVES}.",
    "InvalidAccount": "Account {Account} is invalid. Specify another `account`.",
    "InvalidQOS": f"QOS {{QOS}} is invalid. Change --qos {_DIRECTIVES}.",
    "MaxMemPerLimit": "The job asks for more memory than partition {Partition} allows for a core"
    f" or a node. Specify less `memory` or more `cores`, {_QUEUE}.",
    "QOSNotAllowed": "The account or partition {Partition} does not allow QOS {QOS}. Change --qos"
    f" {_DIRECTIVES}, {_QUEUE}.",
    "ReservationDeleted": "The job's reservation no longer exists. Change --reservation"
    f" {_DIRECTIVES}.",
}
_OF_EACH_JOB: Final = re.compile(
    r"(?P<owner>Assoc|QOS)(?:Max(?P<most>\w+?)Per(?:Job|Node)(?:Limit)?|Min(?P<least>\w+))"
)
"""Limits that an association or a QOS sets for each job: "AssocMaxWallDurationPerJobLimit"."""
_LESS: Final = {
    "Cpu": "Specify fewer `cores`.",
    "CpuMinutes": "Specify fewer `cores` or a shorter `walltime`.",
    "Mem": "Specify less `memory`.",
    "MemMinutes": "Specify less `memory` or a shorter `walltime`.",
    "WallDuration": "Specify a shorter `walltime`.",
}
_MORE: Final = {"CpuNotSatisfied": "Specify more `cores`.", "Mem": "Specify more `memory`."}


def never_passes(reason: str) -> bool:
    """Whether a job may wait for this reason for ever; `why_never_starts` finds out if it does.

    Example:
        >>> never_passes("PartitionTimeLimit"), never_passes("Resources")
        (True, False)
    """
    return (
        reason in _TEXTS
        or reason in ("PartitionTimeLimit", "PartitionNodeLimit")
        or _OF_EACH_JOB.fullmatch(reason) is not None
    )


async def why_never_starts(job: str, reason: str) -> str:
    """Why a job that waits for such a reason never starts, and what to change.

    "" if the job may start nevertheless, or if SLURM does not answer.
    """
    about = await show("job", job)
    if about is None:
        return ""
    partitions = [await show("partition", name) for name in about.get("Partition", "").split(",")]
    return explain(reason, about, [one for one in partitions if one is not None])


def explain(reason: str, job: _Fields, partitions: Sequence[_Fields]) -> str:
    """What `why_never_starts` returns, from the fields of the job and of its partitions.

    Of a job for several partitions SLURM gives the reason of one, and it may start in another.
    Only for time limits can that be ruled out.
    """
    if reason == "PartitionTimeLimit":
        return _about_time(job, partitions)
    if len(partitions) != 1:
        return ""
    if reason == "PartitionNodeLimit":
        return _about_nodes(job, partitions[0])
    known = defaultdict(lambda: "(unknown)", job)
    if reason in _TEXTS:
        return _TEXTS[reason].format_map(known)
    if (limit := _OF_EACH_JOB.fullmatch(reason)) is None:
        return ""
    owner, shown = f"QOS {known['QOS']}", "qos"
    if limit["owner"] == "Assoc":
        owner, shown = f"account {known['Account']}", "assoc user=$USER"
    more_or_less, changes = ("more", _LESS) if limit["most"] else ("less", _MORE)
    what = (limit["most"] or limit["least"]).replace("Memory", "Mem")
    return (
        f"The job asks for {more_or_less} than {owner} allows each job ({reason})."
        f" {changes.get(what, f'Change the request {_DIRECTIVES}.')}"
        f" `sacctmgr show {shown}` lists the limits."
    )


def _about_time(job: _Fields, partitions: Sequence[_Fields]) -> str:
    try:
        limits = {one["MaxTime"]: walltime_seconds(one["MaxTime"], "slurm") for one in partitions}
        asked = walltime_seconds(job["TimeLimit"], "slurm")
    except (KeyError, ValueError):
        return ""
    seconds = [limit for limit in limits.values() if limit is not None]
    if not limits or len(seconds) < len(limits) or (asked is not None and asked <= max(seconds)):
        return ""
    most = next(text for text, limit in limits.items() if limit == max(seconds))
    return (
        f"The job's time limit, {job['TimeLimit']}, is above that of partition"
        f' {job["Partition"]}, {most}. Specify `walltime` as "{most}" or less, {_QUEUE}.'
    )


def _about_nodes(job: _Fields, partition: _Fields) -> str:
    n = _number(job, "NumNodes")
    if n < _number(partition, "MinNodes"):
        limit = f"allows no fewer than {partition['MinNodes']}"
    elif n > _number(partition, "MaxNodes"):
        limit = f"allows no more than {partition['MaxNodes']}"
    elif n > _number(partition, "TotalNodes"):
        limit = f"has {partition['TotalNodes']}"
    else:  # some of its nodes are down
        return ""
    return (
        f"The job asks for {n} node{'s' * (n != 1)}, and partition {job['Partition']} {limit}."
        f" Change --nodes {_DIRECTIVES}, {_QUEUE}."
    )


def _number(fields: _Fields, name: str) -> float:
    """The first number of "2" or "2-4". NaN, which no number is below or above, for "UNLIMITED"."""
    found = re.match(r"\d+", fields.get(name, ""))
    return int(found[0]) if found else math.nan
