"""The wall times of batch jobs, from and to the forms of the batch systems."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from dask_limits.units import Duration, parse_seconds

Walltime = Duration
"""A batch system's own form ("01:30:00"), a timedelta, or an amount with a unit ("90 m")."""

_UNITS: Final[Mapping[str, Mapping[int, Sequence[int]]]] = {
    # The units of the numbers between the colons, in seconds, for 1, 2, ... numbers.
    "slurm": {1: (60,), 2: (60, 1), 3: (3600, 60, 1)},  # man sbatch, --time
    "slurm, after days": {1: (3600,), 2: (3600, 60), 3: (3600, 60, 1)},  # "days-hours:..."
    "pbs": {1: (1,), 2: (60, 1), 3: (3600, 60, 1)},  # man pbs_resources
    "moab": {1: (1,), 2: (60, 1), 3: (3600, 60, 1), 4: (86400, 3600, 60, 1)},
    "sge": {1: (1,), 2: (60, 1), 3: (3600, 60, 1)},  # man sge_types, time_specifier
    "lsf": {1: (60,), 2: (3600, 60)},  # man bsub, -W
    "oar": {1: (3600,), 2: (3600, 60), 3: (3600, 60, 1)},  # man oarsub, -l walltime=
}
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+(?::\d+)*)", re.ASCII)
_NO_END: Final = {"UNLIMITED", "INFINITE", "INFINITY"}


def walltime_text(walltime: Walltime, system: str) -> str:
    """A wall time in the form of a batch system.

    A str of digits, colons and a dash has the meaning that the batch system gives it. So does "90":
    minutes for SLURM and LSF, seconds for PBS, Moab and SGE, hours for OAR. A number is seconds, as
    everywhere in this package.

    Raises:
        ValueError: if it has another form, or is not more than zero.
        TypeError: if it has another type.

    Example:
        >>> walltime_text("1h 30m", "slurm"), walltime_text("1-12", "slurm")
        ('01:30:00', '1-12')
        >>> walltime_text(5430, "lsf")
        '01:31'
    """
    if isinstance(walltime, str) and (_CLOCK.fullmatch(walltime) or walltime.upper() in _NO_END):
        if walltime_seconds(walltime, system) == 0:
            raise ValueError(f"walltime={walltime!r} must be more than zero")
        return walltime
    seconds = math.ceil(parse_seconds(walltime, "walltime"))
    if system == "lsf":
        minutes = math.ceil(seconds / 60)
        return f"{minutes // 60:02}:{minutes % 60:02}"
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def walltime_seconds(text: str, system: str) -> float | None:
    """Seconds of a wall time in the form of a batch system; None for no limit.

    Raises:
        ValueError: if the batch system does not have this form.

    Example:
        >>> walltime_seconds("90", "slurm"), walltime_seconds("01:30", "lsf")
        (5400.0, 5400.0)
    """
    if text.upper() in _NO_END:
        return None
    if clock := _CLOCK.fullmatch(text):
        numbers = [int(number) for number in clock[2].split(":")]
        forms = _UNITS.get(f"{system}, after days" if clock[1] else system, {})
        if units := forms.get(len(numbers)):
            below = sum(number * unit for number, unit in zip(numbers, units, strict=True))
            seconds = float(int(clock[1] or 0) * 86400 + below)
            return None if system == "slurm" and seconds == 0 else seconds
    raise ValueError(
        f'walltime={text!r} is not a wall time for {system}. Use "01:30:00"'
        + (' (LSF: "01:30")' if system == "lsf" else "")
        + ', "1h 30m", (90, "m"), a number of seconds, or a timedelta.'
    )
