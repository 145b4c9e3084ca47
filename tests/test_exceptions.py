import pickle

import pynisher
import pytest

from dask_limits import exceptions
from dask_limits.exceptions import CallError
from dask_limits.limits import Limits, Usage

CALL_ERRORS = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, CallError)
]


@pytest.mark.parametrize("kind", CALL_ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_keeps_all_that_it_carries_when_it_is_pickled(kind):
    limits, usage = Limits(memory="1 GiB"), Usage(wall_time=1.5, cpu_time=1.0, exit_code=-9)
    error = kind("fit() ended", call="fit", limits=limits, usage=usage, stacks="File ...")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == "fit() ended"
    assert (again.call, again.limits, again.usage, again.stacks) == (
        "fit",
        limits,
        usage,
        "File ...",
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (exceptions.WallTimeBreach, pynisher.WallTimeoutException),
        (exceptions.WallTimeBreach, pynisher.TimeoutException),
        (exceptions.CpuTimeBreach, pynisher.CpuTimeoutException),
        (exceptions.MemoryBreach, pynisher.MemoryLimitException),
        (exceptions.MemoryBreach, MemoryError),
        (exceptions.ProcessBreach, exceptions.ProcessLimitException),
        (exceptions.CallError, pynisher.PynisherException),
    ],
)
def test_what_pynishers_users_catch_catches_ours(ours, theirs):
    assert issubclass(ours, theirs)


def test_every_name_that_the_module_offers_is_in_its_tree():
    for name in exceptions.__all__:
        assert name in (exceptions.__doc__ or "")
