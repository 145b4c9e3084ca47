"""What a call changes of its process, and the next call must not find, in a process they share."""

import asyncio
import decimal
import faulthandler
import os
import random
import resource
import sys
import time
import warnings

import cloudpickle
import pytest
from changing import CHANGES, change
from process_view import differences, of_no_library, view_of_any
from processes import until

from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


def relay(fn, *args):
    return fn(*args)


@pytest.fixture(params=["clean", "warm"])
def run(request):
    """Makes calls that share a process: short ones of one function, which import nothing."""
    limits = Limits(isolation=request.param)
    with Guardian(preload=Preload.of(["changing", "process_view"])) as guardian:
        yield lambda fn, *args: guardian.run(relay, (fn, *args), {}, limits)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_the_next_call_finds_what_the_first_call_found(run, name):
    before = run(view_of_any).result()
    for number in (0, 1, 7):
        run(change, name, number)
        found = differences(before, run(view_of_any).result())
        assert not of_no_library(found), number


def test_the_call_after_some_quick_ones_is_looked_at_too(guardian):
    def set_slack(nanoseconds):
        import ctypes

        if nanoseconds:
            time.sleep(0.0001)
            ctypes.CDLL(None).prctl(29, nanoseconds, 0, 0, 0)  # PR_SET_TIMERSLACK
        return os.getpid()

    def call(nanoseconds):
        return guardian.run(set_slack, (nanoseconds,), {}, Limits(isolation="warm")).result()

    for _ in range(20):
        pid = [call(0) for _ in range(3)][-1]
        assert call(123) == pid
        assert call(0) != pid


def test_short_calls_of_what_is_restored_share_a_process(run):
    pids = set()
    for number in range(5):
        run(change, "change_the_environment", number)
        pids.add(run(os.getpid).result())
    assert len(pids) < 5


def test_files_that_calls_leave_open_never_fill_their_process(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with Guardian() as guardian:
            for _ in range(600):
                guardian.run(os.open, ("/dev/null", os.O_RDONLY), {}).result()

            def pids():  # a call that had to wait for long may be the last of its process
                return {guardian.run(os.getpid, (), {}).result() for _ in range(5)}

            until(lambda: len(pids()) == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_call_that_wants_its_stacks_written_later_does_not_end_the_next(run):
    def ask():
        faulthandler.dump_traceback_later(0.3, exit=True, file=1)

    run(ask).result()
    assert run(time.sleep, 0.6).ok


def test_a_call_that_redirects_its_stacks_does_not_redirect_those_of_the_next(run, tmp_path):
    def redirect():
        faulthandler.enable(file=(tmp_path / "stacks").open("w"))

    def crash():
        os.abort()

    run(redirect).result()
    assert "in crash" in str(run(crash).exception)
    assert not (tmp_path / "stacks").read_text()


def test_a_call_that_seeds_the_generators_of_random_numbers_does_not_seed_those_of_the_next(
    run,
):
    def seed():
        import numpy

        random.seed(1)
        numpy.random.seed(1)

    def draw():
        import numpy

        return random.random(), float(numpy.random.random())

    drawn = []
    for _ in range(3):
        run(seed).result()
        drawn.append(run(draw).result())
    assert len({one for one, _ in drawn}) == len({other for _, other in drawn}) == 3


def test_a_call_that_runs_an_event_loop_leaves_the_next_one_able_to_get_one(run):
    def run_a_loop():
        asyncio.run(asyncio.sleep(0))

    def get():
        loop = asyncio.get_event_loop_policy().get_event_loop()
        loop.close()
        return True

    for _ in range(2):
        run(run_a_loop).result()
        assert run(get).result()


def test_the_context_of_decimals_is_each_calls_own(run):
    def set_precision():
        decimal.getcontext().prec = 7

    def look():
        return decimal.getcontext().prec

    run(set_precision).result()
    assert run(look).result() == 28


def test_a_warning_that_a_call_has_shown_is_shown_to_the_next_one_too(guardian):
    def warn():
        warnings.warn("mind the gap", stacklevel=1)

    captured = Limits(capture_output=True)
    for _ in range(3):
        assert "mind the gap" in guardian.run(warn, (), {}, captured).usage.stderr


def test_a_time_zone_goes_with_its_call(run):
    def move():
        os.environ["TZ"] = "Asia/Tokyo"
        time.tzset()

    before = run(time.localtime, 0).result()
    run(move).result()
    assert run(time.localtime, 0).result() == before
