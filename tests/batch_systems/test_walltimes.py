from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dask_limits.batch_systems.walltimes import walltime_seconds, walltime_text

SYSTEMS = ["slurm", "pbs", "moab", "sge", "lsf", "oar"]


@given(st.sampled_from(SYSTEMS), st.floats(1, 1e8))
@example("slurm", 1.0000000000000002)
def test_what_is_written_for_a_system_is_what_it_reads_rounded_up(system, seconds):
    read = walltime_seconds(walltime_text(seconds, system), system)
    unit = 60 if system == "lsf" else 1
    assert read - unit < seconds <= read


@pytest.mark.parametrize(
    ("system", "text", "seconds"),
    [
        ("slurm", "90", 5400),
        ("slurm", "90:30", 5430),
        ("slurm", "1:30:00", 5400),
        ("slurm", "1-12", 129600),
        ("slurm", "1-12:30", 131400),
        ("slurm", "1-12:30:05", 131405),
        ("slurm", "0", None),
        ("slurm", "UNLIMITED", None),
        ("slurm", "infinite", None),
        ("pbs", "90", 90),
        ("pbs", "1:30", 90),
        ("pbs", "100:00:00", 360000),
        ("moab", "1:00:00:00", 86400),
        ("sge", "01:30:00", 5400),
        ("lsf", "90", 5400),
        ("lsf", "01:30", 5400),
        ("oar", "2", 7200),
        ("oar", "2:30", 9000),
        ("oar", "2:30:10", 9010),
    ],
)
def test_a_text_means_what_it_means_to_the_batch_system(system, text, seconds):
    assert walltime_seconds(text, system) == seconds
    if text not in ("0",):
        assert walltime_text(text, system) == text


@pytest.mark.parametrize(
    "amount", [5400, 5400.0, "1h 30m", "1.5 h", (90, "m"), timedelta(hours=1.5)]
)
def test_amounts_with_our_units_mean_the_same_everywhere(amount):
    for system in SYSTEMS:
        assert walltime_seconds(walltime_text(amount, system), system) == 5400


@pytest.mark.parametrize(
    ("system", "text"),
    [("lsf", "1:30:00"), ("pbs", "1-12"), ("oar", "1:2:3:4"), ("pbs", "0"), ("slurm", "1-"),
     ("slurm", "soon"), ("slurm", "-5"), ("slurm", 0), ("slurm", -60), ("slurm", "")],
)  # fmt: skip
def test_what_a_system_does_not_know_is_refused(system, text):
    with pytest.raises(ValueError, match="walltime="):
        walltime_text(text, system)


@given(st.text(), st.sampled_from(SYSTEMS))
def test_any_text_is_read_or_refused(text, system):
    try:
        seconds = walltime_seconds(text, system)
    except ValueError:
        return
    assert seconds is None or seconds >= 0
