"""Arguments by names that a function does not have: what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

_SAME: Final = tuple(
    names.split()
    for names in (
        "max_workers n_workers num_workers workers n_jobs jobs processes n_processes",
        "memory memory_limit max_memory mem mem_limit mem_in_mb mem_gb ram",
        "wall_time walltime_limit walltime wall_time_limit wall_time_in_s timeout time_limit time"
        " timeout_min max_time",
        "cpu_time cputime_limit cpu_time_limit cputime cpu_time_in_s",
        "num_processes process_limit n_processes processes",
        "cores cpus n_cores num_cpus n_cpus cpus_per_task n_jobs",
        "grace_period grace_period_in_s grace",
        "queue partition slurm_partition",
        "capture_output capture",
        "plugins plugin",
        "display verbose progress_bar",
        "max_in_flight max_concurrent",
        "journal resume checkpoint",
    )
)
"""Names of one thing: here, in pynisher, the standard library, joblib, Dask, Ray and SLURM."""

_MOST: Final = 12
"""Names that are listed when none is near."""


def refuse(
    of: str,
    unknown: Mapping[str, object],
    known: Collection[str],
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse arguments that something does not have. For the others see `instead_of`.

    Raises:
        TypeError: for the first of them.
    """
    for name, value in unknown.items():
        raise TypeError(
            f"{of} has no argument {name!r}: {instead_of(name, value, known, elsewhere)}"
        )


def instead_of(
    name: str,
    value: object,
    known: Collection[str],
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The end of an error's message about an argument that there is not.

    Args:
        name: Its name.
        value: What was given for it.
        known: The names that there are.
        elsewhere: What does the same here, for names for which this is more than another name. Each
            is a sentence, or a part of one, that may have `{value!r}` in it.

    Example:
        >>> instead_of("mem", "1 GiB", ["memory", "cores"])
        "did you mean 'memory'?"
        >>> instead_of("retries", 3, ["memory"], {"retries": "use Retry(max_retries={value!r})"})
        'use Retry(max_retries=3).'
        >>> instead_of("xyz", 1, ["memory", "cores"])
        'there are memory, cores.'
    """
    if name in elsewhere:
        return f"{elsewhere[name].format(value=value)}."
    same = [one for names in _SAME if name in names for one in names if one in known]
    for right in [*same, *difflib.get_close_matches(name, known, 1)]:
        return f"did you mean {right!r}?"
    more = f" and {len(known) - _MOST} more" if len(known) > _MOST else ""
    return f"there are {', '.join([*known][:_MOST])}{more}."


def command_of(thing: object) -> str:
    """The end of an error's message about something that cannot be called: it may be a command."""
    is_command = isinstance(thing, str | list) and bool(thing)
    return f". For a command of the shell: command({thing!r})" if is_command else ""
