from __future__ import annotations

from dask_limits.limits.call_metrics import OTHERS, CallMetrics
from dask_limits.limits.outcome import Usage

USAGE = Usage(wall_time=0.5, cpu_time=0.1, peak_memory=2**20)


def test_there_are_few_names_however_many_functions_there_are() -> None:
    metrics = CallMetrics()
    for n in range(1000):
        metrics.note(f"f{n}", "returned", USAGE)
    metrics.note("f0", "returned", USAGE)
    assert len(metrics.wall_times) == len(metrics.peak_memories) == 101
    assert metrics.ended["f0", "returned"] == 2
    assert metrics.ended[OTHERS, "returned"] == 900


def test_a_value_at_a_bound_is_no_more_than_it() -> None:
    metrics = CallMetrics()
    metrics.note("f", "returned", USAGE)
    assert metrics.peak_memories["f"].buckets()[0] == (str(2.0**20), 1)
    assert metrics.wall_times["f"].sum == 0.5


def test_a_call_that_has_not_run_has_used_nothing() -> None:
    metrics = CallMetrics()
    metrics.note("f", "refused", None)
    assert metrics.ended["f", "refused"] == 1
    assert metrics.wall_times["f"].buckets()[-1] == ("+Inf", 0)
