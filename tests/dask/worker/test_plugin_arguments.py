from __future__ import annotations

import pytest

from dask_limits import LimitsWorkerPlugin


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_a_number_of_calls_that_makes_no_sense_is_refused_before_it_reaches_a_worker(wrong):
    error = ValueError if type(wrong) is int else TypeError
    with pytest.raises(error, match=r"max_calls_per_process=.* must be a whole number"):
        LimitsWorkerPlugin(max_calls_per_process=wrong)
